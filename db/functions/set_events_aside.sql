create or replace function set_events_aside(
    p_events payment_events[], p_invoice_ids bigint[], p_states text[], p_own bigint[], p_parked bigint[]
) returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_outcomes payment_event_outcome[];
    v_parked bigint[];
    v_ids bigint[] := array(select e.id from unnest(p_events) e);
begin
    select array_agg(row(
            s.id, i.id,
            case
                when p_states[e.ordinality] = 'rewritten' then 'conflict'
                when p_states[e.ordinality] = 'waiting' and e.id <> all(p_own || p_parked) then 'queued'
                when p_states[e.ordinality] = 'currency_mismatch' and e.id = any(p_parked) then 'queued'
                when p_states[e.ordinality] = 'waiting' then 'parked'
                when p_states[e.ordinality] = 'unknown_invoice' and s.id is not null then 'parked'
                else p_states[e.ordinality]
            end,
            case p_states[e.ordinality]
                when 'invalid' then (select payment_event_error(x) from unnest(p_events[e.ordinality:e.ordinality]) x)
                when 'unknown_invoice' then format('invoice %s does not exist', coalesce(e.invoice_id::text, quote_literal(e.invoice_reference)))
                when 'waiting' then format('%s %L is not posted yet', movement_kind(e.kind),
                    movement_reference(e.kind, e.reference, e.parent_reference))
                when 'currency_mismatch' then format('the event is in %s, invoice %s in %s', e.currency, i.id, i.currency)
                when 'amount_out_of_range' then format('a sum of invoice %s would exceed 10^18 minor units', i.id)
                when 'conflict' then format('%s %L is posted with another amount or on another invoice', e.kind, e.reference)
                when 'rewritten' then 'its event_id was used before with another amount, kind, currency, reference or invoice'
                when 'busy' then format('invoice %s is locked by another transaction', i.id)
                when 'dead' then (select concat_ws(': ', d.reason, d.detail) from dead_letters d
                                  where d.payment_event_id = e.id and (d.resolution is null or d.resolution = 'dismissed'))
            end)::payment_event_outcome order by e.ordinality)
    into v_outcomes
    from unnest(p_events) with ordinality e
    left join lateral (select s.id from payment_events s where s.id = e.id offset 0) s on true
    left join lateral (select * from invoices i where i.id = p_invoice_ids[e.ordinality] offset 0) i on true;

    with parked as (
        insert into parked_events (id, connection, invoice_id, invoice_reference, movement_kind, movement_reference)
        select e.id, e.connection,
               case when state = 'unknown_invoice' then e.invoice_id end,
               case when state = 'unknown_invoice' and e.invoice_id is null then e.invoice_reference end,
               case when state = 'waiting' then movement_kind(e.kind) end,
               case when state = 'waiting' then movement_reference(e.kind, e.reference, e.parent_reference) end
        from unnest(p_events) with ordinality e, unnest(p_states[e.ordinality:e.ordinality]) state
        where state in ('unknown_invoice', 'waiting') and (v_outcomes[e.ordinality]).outcome = 'parked' and e.id = any(p_own)
        order by e.id
        on conflict do nothing
        returning id
    )
    select array_agg(p.id) into v_parked from parked p;
    if exists (select from unnest(v_outcomes) o where o.outcome = 'parked' and o.id = any(p_own) and o.id <> all(coalesce(v_parked, '{}'))
               and (select w.id from parked_events w where w.id = o.id) is null) then
        perform raise_kept_back('parked_events');
    end if;
    if v_parked is not null then
        -- It may have come while we parked: a look with a fresh snapshot.
        perform release_parked_events(find_released_events(v_parked));
    end if;

    perform bury_payment_event(e.id, (v_outcomes[e.ordinality]).outcome, (v_outcomes[e.ordinality]).detail)
    from unnest(p_events) with ordinality e
    where p_states[e.ordinality] in ('conflict', 'currency_mismatch', 'amount_out_of_range')
      and (v_outcomes[e.ordinality]).id = any(p_own) and array_position(v_ids, e.id) = e.ordinality
    order by e.id;

    insert into dead_letters (connection, event_id, delivery_id, reason, detail, report, fingerprint)
    select e.connection, e.event_id, e.delivery_id, 'conflict', (v_outcomes[e.ordinality]).detail, r.report,
           encode(sha256(convert_to(r.report::text, 'UTF8')), 'hex')
    from unnest(p_events) with ordinality e,
         lateral (select to_jsonb(e) - '{id,received_at,delivery_id,occurred_at,ordinality}'::text[]) r(report)
    where p_states[e.ordinality] = 'rewritten'
    order by r.report
    on conflict do nothing;

    -- An event given twice in one batch: the second time it has become what the first time made of it.
    if 'repeated' = any(p_states) then
        v_outcomes := array(
            select case when p_states[e.ordinality] <> 'repeated' then v_outcomes[e.ordinality]
                else (select row(o.id, o.invoice_id, case when o.outcome = 'applied' then 'duplicate' when buried then 'dead' else o.outcome end,
                             case when buried then concat_ws(': ', o.outcome, o.detail) else o.detail end)::payment_event_outcome
                      from unnest(v_outcomes) with ordinality o
                      cross join lateral (select o.outcome in ('conflict', 'currency_mismatch', 'amount_out_of_range')
                                                 and o.id = any(p_own) and array_position(v_ids, o.id) = o.ordinality) b(buried)
                      where o.id = e.id and o.outcome <> 'repeated' and o.ordinality < e.ordinality
                      order by o.ordinality desc limit 1) end
            from unnest(p_events) with ordinality e order by e.ordinality);
    end if;
    return v_outcomes;
end
$$;
comment on function set_events_aside(payment_events[], bigint[], text[], bigint[], bigint[]) is
    'Makes an outcome of every state, and parks or buries those of p_own that could not be posted. Those of p_parked waited before the batch came.';
revoke all on function set_events_aside from public;
