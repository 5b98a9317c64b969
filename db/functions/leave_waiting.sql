create or replace function leave_waiting(p_outcomes payment_event_outcome[], p_claimed boolean) returns void
language plpgsql set search_path from current
as $$
declare
    v_ids bigint[] := array(select o.id from unnest(p_outcomes) o);
    v_settled bigint[] := array(
        select o.id from unnest(v_ids) o(id)
        where coalesce((select p.id from payments p where p.id = o.id),
                       (select r.id from payment_reports r where r.id = o.id)) is not null);
    v_moved bigint[] := '{}';
begin
    if p_claimed then    -- who holds the queue's rows has just parked or buried these; for others that may change at any moment
        v_moved := array(
            select w.id from parked_events w where w.id = any(v_ids)
            union all
            select d.payment_event_id from dead_letters d
            where d.payment_event_id = any(v_ids) and (d.resolution is null or d.resolution = 'dismissed'));
    end if;
    -- Without waiting: a worker that holds the row finds the event settled and removes it.
    delete from payment_queue q
    where q.id = any(array(select l.id from payment_queue l where l.id = any(v_settled || v_moved) for update skip locked));
    delete from parked_events w
    where w.id = any(array(select l.id from parked_events l where l.id = any(v_settled) for update skip locked));
end
$$;
comment on function leave_waiting(payment_event_outcome[], boolean) is
    'Removes posted events from the queue and from the parked; with p_claimed, parked and buried ones from the queue.';
revoke all on function leave_waiting from public;
