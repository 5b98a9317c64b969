create or replace function apply_batch(p_events payment_events[], p_stored boolean, p_park boolean, p_wait boolean)
returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_events payment_events[] := p_events;
    v_invoice_ids bigint[];
    v_states text[];
    v_near_limit boolean;
    v_known boolean;
    v_parked bigint[] := '{}';
    v_outcomes payment_event_outcome[] := '{}';
begin
    -- Here and in what is called from here arrays keep the input's order without being sorted: unnest() gives it, and the
    -- nested loops keep it that every function for use from outside pins (enable_hashjoin = off and so on).
    select l.* into v_invoice_ids, v_states, v_near_limit from lock_invoices(p_events, p_wait) l;
    if v_near_limit and cardinality(p_events) > 1 then
        for v_position in 1 .. cardinality(p_events) loop
            v_outcomes := v_outcomes || apply_batch(p_events[v_position:v_position], p_stored, p_park, p_wait);
        end loop;
        return v_outcomes;
    end if;
    if not p_stored then
        if not p_park and 'waiting' = any(v_states) then
            select f.* into v_invoice_ids, v_states from foresee_currency_mismatches(p_events, v_invoice_ids, v_states) f;
        end if;
        select s.* into v_states, v_events, v_known from store_payment_events(p_events, p_park, true, v_invoice_ids, v_states) s;
    end if;
    if v_known then    -- before what they wait for is posted here, and releases them
        v_parked := array(select w.id from unnest(v_events) e
                          cross join lateral (select w.id from parked_events w where w.id = e.id offset 0) w);
    end if;
    select p.* into v_invoice_ids, v_states from post_payments(v_events, v_invoice_ids, v_states) p;
    if 'applied' = all(v_states) and (p_stored or not v_known) then
        return array(select row(e.id, v_invoice_ids[e.ordinality], 'applied', null)::payment_event_outcome
                     from unnest(v_events) with ordinality e);
    end if;
    -- It moves what it has stored itself, or holds in the queue. Where another event waits is for the worker to change.
    v_outcomes := set_events_aside(v_events, v_invoice_ids, v_states, array(select e.id from unnest(p_events) e where e.id is not null), v_parked);
    if v_known then
        perform leave_waiting(v_outcomes, p_claimed => false);
    end if;
    return v_outcomes;
end
$$;
comment on function apply_batch(payment_events[], boolean, boolean, boolean) is
    'The one way money moves: locks the invoices, stores the events (unless they are stored), posts them, and sets aside what cannot be posted. One outcome for each, in input order.';
revoke all on function apply_batch from public;
