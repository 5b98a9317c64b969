create or replace function queue_failed_events(p_events payment_events[], p_outcomes payment_event_outcome[]) returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_stored record;
begin
    for v_position in 1 .. cardinality(p_events) loop
        continue when p_outcomes[v_position].outcome <> 'failed';
        select * into v_stored from store_payment_events(p_events[v_position:v_position], true, array['ready']);
        if not v_stored.p_known then
            insert into payment_queue (id) values (p_events[v_position].id);
            perform fail_payment_event(p_events[v_position].id, p_outcomes[v_position].detail);
        end if;
        p_outcomes[v_position].id := v_stored.p_events[1].id;
        p_outcomes[v_position].outcome := 'queued';
    end loop;
    return p_outcomes;
end
$$;
comment on function queue_failed_events(payment_events[], payment_event_outcome[]) is
    'Stores the events whose application raised and queues them for a retry.';
revoke all on function queue_failed_events from public;
