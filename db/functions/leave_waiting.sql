create or replace function leave_waiting(p_outcomes payment_event_outcome[]) returns void
language plpgsql set search_path from current
as $$
declare
    v_settled bigint[] := array(
        select o.id from unnest(p_outcomes) o
        where coalesce((select p.id from payments p where p.id = o.id),
                       (select r.id from payment_reports r where r.id = o.id),
                       (select d.payment_event_id from dead_letters d where d.payment_event_id = o.id
                        and (d.resolution is null or d.resolution = 'dismissed'))) is not null);
    v_parked bigint[] := array(select w.id from parked_events w where w.id = any(array(select o.id from unnest(p_outcomes) o)));
begin
    -- Without waiting: a worker that holds the row finds the event settled and removes it.
    delete from payment_queue q
    where q.id = any(array(select l.id from payment_queue l where l.id = any(v_settled || v_parked) for update skip locked));
    delete from parked_events w
    where w.id = any(array(select l.id from parked_events l where l.id = any(v_settled) for update skip locked));
end
$$;
comment on function leave_waiting(payment_event_outcome[]) is
    'Removes from the queue and from the parked what stands elsewhere by now, and parked ones from the queue.';
revoke all on function leave_waiting from public;
