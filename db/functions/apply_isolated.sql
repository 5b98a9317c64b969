create or replace function apply_isolated(p_events payment_events[], p_stored boolean, p_park boolean, p_wait boolean)
returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_outcomes payment_event_outcome[] := '{}';
    v_from integer := 1;
    v_to integer := cardinality(p_events);
    v_ends integer[] := array[v_to];
    v_blocks integer := 0;
begin
    -- Halve what raises until the event that raises stands alone. In input order, v_ends being the stack of what is left.
    while cardinality(v_ends) > 0 loop
        v_to := v_ends[1];
        v_blocks := v_blocks + 1;
        if v_blocks > 60 then    -- each block is a subtransaction; beyond 64 they slow down every snapshot
            return v_outcomes || array(select row(e.id, null, 'busy', 'left for the next call: too many events of this one raised')::payment_event_outcome
                                       from unnest(p_events[v_from:]) e);
        end if;
        begin
            v_outcomes := v_outcomes || apply_batch(p_events[v_from:v_to], p_stored, p_park, p_wait);
            set constraints all immediate;    -- deferred constraint triggers raise here, where it can be told which event it was
            v_from := v_to + 1;
            v_ends := v_ends[2:];
        exception when others then
            if left(sqlstate, 2) in ('25', '40', '53', '57', '58') or sqlstate = '55P03' then
                raise;    -- not the event's fault: a deadlock, a lock or statement time-out, a full disk, a server that has become a standby
            end if;
            v_outcomes := v_outcomes[1:v_from - 1];
            if v_from < v_to then
                v_ends := (v_from + v_to - 1) / 2 || v_ends;
            else
                v_outcomes := v_outcomes || row(case when p_stored then p_events[v_from].id end, null, 'failed',
                                                format('%s (SQLSTATE %s)', sqlerrm, sqlstate))::payment_event_outcome;
                v_from := v_to + 1;
                v_ends := v_ends[2:];
            end if;
        end;
    end loop;
    return v_outcomes;
end
$$;
comment on function apply_isolated(payment_events[], boolean, boolean, boolean) is
    'apply_batch(), where an event whose application raises (a trigger of yours, at once or deferred) fails alone.';
revoke all on function apply_isolated from public;
