create or replace function enqueue_payment_event(
    p_event_id text, p_invoice_id bigint, p_amount bigint, p_kind text default 'payment', p_currency text default null,
    p_connection text default 'direct', p_reference text default null, p_parent_reference text default null,
    p_invoice_reference text default null, p_occurred_at timestamptz default null,
    p_body bytea default null, p_content_type text default null, p_park boolean default false
) returns payment_event_receipt
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        array[p_event_id], array[p_invoice_id], array[p_amount], array[p_kind], array[p_currency], array[p_connection], array[p_reference],
        array[p_parent_reference], array[p_invoice_reference], array[p_occurred_at], null, array[p_body]);
    v_outcomes payment_event_outcome[] := enqueue_batch(v_events, array[p_invoice_id], p_park);
begin
    perform raise_rejected_event(v_events[1], v_outcomes[1]);
    if p_body is not null then
        perform store_deliveries(v_events, v_outcomes, array[p_body], array[p_content_type], null);
    end if;
    return row(p_event_id, v_outcomes[1].outcome, v_outcomes[1].invoice_id, v_outcomes[1].detail)::payment_event_receipt;
end
$$;
comment on function enqueue_payment_event is
    'Stores one payment event and queues it for process_payment_queue(). Outcome queued, duplicate (queued or posted before), conflict, parked or dead. Parameters and errors as apply_payment_event().';
revoke all on function enqueue_payment_event from public;
select grant_to('server', 'execute on function enqueue_payment_event');
