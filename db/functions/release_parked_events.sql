create or replace function release_parked_events(p_ids bigint[]) returns bigint
language plpgsql set search_path from current
as $$
declare
    v_released bigint;
begin
    -- Never waits: who holds one of them is releasing it too, or posting it.
    with released as (
        delete from parked_events w
        where w.id = any(array(select l.id from parked_events l where l.id = any(p_ids) for update skip locked))
        returning w.id
    )
    insert into payment_queue (id) select r.id from released r order by r.id on conflict do nothing;
    get diagnostics v_released = row_count;
    return v_released;
end
$$;
comment on function release_parked_events(bigint[]) is 'Moves parked events into the queue; says how many.';
revoke all on function release_parked_events from public;
