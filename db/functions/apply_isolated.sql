create or replace function apply_isolated(p_events payment_events[], p_stored boolean, p_park boolean, p_wait boolean)
returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_events payment_events[] := p_events;
    v_order bigint[];
    v_outcomes payment_event_outcome[] := '{}';
    v_outcome payment_event_outcome;
    v_from integer := 1;
    v_to integer := cardinality(p_events);
    v_ends integer[] := array[v_to];
    v_blocks integer := 0;
begin
    -- Halve what raises until the event that raises stands alone; v_ends is the stack of what is left.
    while v_from <= cardinality(p_events) loop
        v_to := v_ends[1];
        v_blocks := v_blocks + 1;
        if v_blocks > 60 then    -- each block is a subtransaction; beyond 64 they slow down every snapshot
            v_outcomes := v_outcomes || array(
                select row(case when p_stored then e.id end, null, 'busy', 'left for the next call: too many events of this one raised')::payment_event_outcome
                from unnest(v_events[v_from:]) e);
            exit;
        end if;
        begin
            v_outcomes := v_outcomes || apply_batch(v_events[v_from:v_to], p_stored, p_park, p_wait);
            set constraints all immediate;    -- deferred constraint triggers raise here, where it can be told which event it was
            v_from := v_to + 1;
            v_ends := v_ends[2:];
        exception when assert_failure or others then    -- others alone leaves out a failed ASSERT
            if left(sqlstate, 2) in ('25', '40', '53', '57', '58') or sqlstate = '55P03' then
                raise;    -- not the event's fault: a deadlock, a lock or statement time-out, a full disk, a server that has become a standby
            end if;
            v_outcomes := v_outcomes[1:v_from - 1];
            if v_from = v_to then
                v_outcome := row(case when p_stored then v_events[v_from].id end, null, 'failed',
                                 format('%s (SQLSTATE %s)', sqlerrm, sqlstate))::payment_event_outcome;
                if p_park and not p_stored then
                    v_outcome := queue_failed_event(v_events[v_from], v_outcome);
                end if;
                v_outcomes := v_outcomes || v_outcome;
                v_from := v_to + 1;
                v_ends := v_ends[2:];
            else
                v_ends := (v_from + v_to - 1) / 2 || v_ends;
                if v_order is null then
                    -- The parts keep to the fixed orders of invoices and events as the whole did. Of movements they cannot too:
                    -- two such batches over the same ones may meet, and one of them is told so (40P01).
                    if p_wait then
                        perform lock_invoices(v_events, true);
                    end if;
                    v_order := array(select e.ordinality from unnest(v_events) with ordinality e
                                     order by e.connection, e.event_id, e.ordinality);
                    v_events := array(select p_events[o.position] from unnest(v_order) with ordinality o(position, place) order by o.place);
                end if;
            end if;
        end;
    end loop;
    if v_order is null then
        return v_outcomes;
    end if;
    return array(select v_outcomes[o.place] from unnest(v_order) with ordinality o(position, place) order by o.position);
end
$$;
comment on function apply_isolated(payment_events[], boolean, boolean, boolean) is
    'apply_batch(), where an event whose application raises (a trigger of yours, at once or deferred) fails alone. A batch in which one raises is applied in the order of event ids.';
revoke all on function apply_isolated from public;
