create or replace function enqueue_batch(p_events payment_events[], p_invoice_ids bigint[], p_park boolean) returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_found bigint[] := case when num_nonnulls(variadic p_invoice_ids) = cardinality(p_events) then null    -- each names its own
                             else find_invoices(p_events) end;
    v_invoice_ids bigint[];
    v_states text[];
    v_events payment_events[];
    v_known boolean;
    v_queued integer;
    v_outcomes payment_event_outcome[];
begin
    select array_agg(n.invoice_id),
           array_agg(case
               when e.id is null then 'invalid'
               when p_park or coalesce(n.invoice_id::text, e.invoice_reference) is null then 'ready'
               when i.id is null then 'unknown_invoice'
               when e.currency <> i.currency then 'currency_mismatch'
               else 'ready'
           end)
    into v_invoice_ids, v_states
    from unnest(p_events) with ordinality e
    cross join lateral (select coalesce(e.invoice_id, v_found[e.ordinality])) n(invoice_id)
    left join lateral (select * from invoices i where not p_park and i.id = n.invoice_id offset 0) i on true;

    select s.* into v_states, v_events, v_known from store_payment_events(p_events, false, false, v_invoice_ids, v_states) s;
    insert into payment_queue (id)
    select e.id from unnest(p_events) with ordinality e
    where v_states[e.ordinality] = 'ready' and v_events[e.ordinality].id = e.id;
    get diagnostics v_queued = row_count;
    if v_queued < (case when v_known then (select count(*) from unnest(p_events) with ordinality e
                                           where v_states[e.ordinality] = 'ready' and v_events[e.ordinality].id = e.id)
                        else cardinality(p_events) end) then
        perform raise_kept_back('payment_queue');
    end if;

    if not v_known then
        return array(select row(e.id, v_invoice_ids[e.ordinality], 'queued', null)::payment_event_outcome
                     from unnest(p_events) with ordinality e);
    end if;
    v_states := array(select case
        when s.state not in ('ready', 'queued')    -- a known event in another currency waits where it is, for the worker to bury
            and not (s.state = 'currency_mismatch' and v_events[s.position].id <> p_events[s.position].id) then s.state
        when v_events[s.position].id = p_events[s.position].id then 'queued'
        when (select w.id from parked_events w where w.id = v_events[s.position].id) is not null then 'parked'
        else 'duplicate' end
        from unnest(v_states) with ordinality s(state, position) order by s.position);
    v_outcomes := set_events_aside(v_events, v_invoice_ids, v_states, '{}', '{}');
    for v_position in 1 .. cardinality(v_states) loop
        if v_states[v_position] = 'repeated' and v_outcomes[v_position].outcome = 'queued' then
            v_outcomes[v_position].outcome := 'duplicate';
        end if;
    end loop;
    return v_outcomes;
end
$$;
comment on function enqueue_batch(payment_events[], bigint[], boolean) is 'Stores events and their queue rows. One outcome for each, in input order.';
revoke all on function enqueue_batch from public;
