create or replace function apply_payment_event(
    p_event_id text, p_invoice_id bigint, p_amount bigint, p_kind text default 'payment', p_currency text default null,
    p_connection text default 'direct', p_reference text default null, p_parent_reference text default null,
    p_invoice_reference text default null, p_occurred_at timestamptz default null,
    p_body bytea default null, p_content_type text default null, p_park boolean default false
) returns payment_event_result
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        array[p_event_id], array[p_invoice_id], array[p_amount], array[p_kind], array[p_currency], array[p_connection], array[p_reference],
        array[p_parent_reference], array[p_invoice_reference], array[p_occurred_at], null, array[p_body]);
    v_outcomes payment_event_outcome[] := apply_batch(v_events, p_stored => false, p_park => p_park, p_wait => true);
begin
    perform raise_rejected_event(v_events[1], v_outcomes[1]);
    if p_body is not null then
        perform store_deliveries(v_events, v_outcomes, array[p_body], array[p_content_type], null);
    end if;
    return payment_event_results(v_events, v_outcomes);
end
$$;
comment on function apply_payment_event is
    'Applies one payment event now, exactly once: select * from apply_payment_event(''event_12345'', 1, 5000). p_amount in minor units of p_currency (default: the invoice''s). '
    'Outcome applied, duplicate (posted before), conflict (other content under the same id or movement: a dead letter), parked (waits for the movement it is about) or dead. '
    'Name the invoice by p_invoice_id, else by p_invoice_reference; a refund or chargeback may name its payment alone (p_parent_reference), a reversal its base (p_reference). '
    'Raises PW001 unknown invoice, PW002 invalid field, PW003 currency mismatch, PW004 amount out of range, and then stores nothing; with p_park it stores and returns those.';
revoke all on function apply_payment_event from public;
select grant_to('server', 'execute on function apply_payment_event');
