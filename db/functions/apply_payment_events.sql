create or replace function apply_payment_events(
    p_event_ids text[], p_invoice_ids bigint[] default null, p_amounts bigint[] default null, p_kinds text[] default null,
    p_currencies text[] default null, p_connections text[] default null, p_references text[] default null,
    p_parent_references text[] default null, p_invoice_references text[] default null, p_occurred_at timestamptz[] default null,
    p_bodies bytea[] default null, p_content_types text[] default null, p_deliveries integer[] default null,
    p_park boolean default false, p_wait boolean default true
) returns setof payment_event_result
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references,
        p_parent_references, p_invoice_references, p_occurred_at, p_deliveries, p_bodies);
    v_outcomes payment_event_outcome[];
begin
    v_outcomes := apply_isolated(v_events, p_stored => false, p_park => p_park, p_wait => p_wait);
    if p_bodies is not null then
        perform store_deliveries(v_events, v_outcomes, p_bodies, p_content_types, p_deliveries);
    end if;
    return query select r.* from payment_event_results(v_events, v_outcomes) r;
end
$$;
comment on function apply_payment_events is
    'Applies a batch of events now: one row for each, in input order. It leaves the books that single calls in that order would (where a trigger of yours raises, in the order of their ids). Arrays run in parallel, a missing one takes its defaults (see apply_payment_event). A bad event never spoils the others: unknown_invoice, currency_mismatch, amount_out_of_range, invalid and failed (a trigger of yours raised) store nothing. '
    'With p_park whatever is valid is stored: it waits for its invoice, is retried, or becomes a dead letter. Without p_wait an event whose invoice is locked comes back busy, nothing stored. '
    'p_bodies are the requests they came in; p_deliveries says in which, by position. Deferred constraints of the transaction are checked at once.';
revoke all on function apply_payment_events from public;
select grant_to('server', 'execute on function apply_payment_events');
