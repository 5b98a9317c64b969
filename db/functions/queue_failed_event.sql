create or replace function queue_failed_event(p_event payment_events, p_failure payment_event_outcome) returns payment_event_outcome
language plpgsql set search_path from current
as $$
declare
    v_stored record;
begin
    select * into v_stored from store_payment_events(array[p_event], true, false, array[]::bigint[], array['failed']);
    if v_stored.p_known then
        return (set_events_aside(v_stored.p_events, array[]::bigint[], v_stored.p_states, '{}', '{}'))[1];
    end if;
    insert into payment_queue (id) values (p_event.id);
    perform fail_payment_event(p_event.id, p_failure.detail);
    return row(p_event.id, p_failure.invoice_id, 'queued', p_failure.detail)::payment_event_outcome;
end
$$;
comment on function queue_failed_event(payment_events, payment_event_outcome) is
    'Stores an event whose application raised, and queues it for a retry.';
revoke all on function queue_failed_event from public;
