create or replace function enqueue_payment_events(
    p_event_ids text[], p_invoice_ids bigint[] default null, p_amounts bigint[] default null, p_kinds text[] default null,
    p_currencies text[] default null, p_connections text[] default null, p_references text[] default null,
    p_parent_references text[] default null, p_invoice_references text[] default null, p_occurred_at timestamptz[] default null,
    p_bodies bytea[] default null, p_content_types text[] default null, p_deliveries integer[] default null,
    p_park boolean default false
) returns setof payment_event_receipt
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references,
        p_parent_references, p_invoice_references, p_occurred_at, p_deliveries, p_bodies);
    v_outcomes payment_event_outcome[] := enqueue_batch(v_events, p_invoice_ids, p_park);
begin
    if p_bodies is not null then
        perform store_deliveries(v_events, v_outcomes, p_bodies, p_content_types, p_deliveries);
    end if;
    return query
    select e.event_id, o.outcome, o.invoice_id, o.detail
    from unnest(v_events) with ordinality e, lateral (select (v_outcomes[e.ordinality]).*) o;
end
$$;
comment on function enqueue_payment_events is
    'Stores a batch of events and queues them for process_payment_queue(); one row for each, in input order: queued, duplicate (queued or posted before), parked, dead, conflict. Parameters as apply_payment_events(). '
    'Without p_park an event that names no known invoice, or another currency, is refused here (unknown_invoice, currency_mismatch; nothing stored); with it, what is wrong shows when it is processed.';
revoke all on function enqueue_payment_events from public;
select grant_to('server', 'execute on function enqueue_payment_events');
