create or replace function leave_waiting(p_outcomes payment_event_outcome[]) returns void
language plpgsql set search_path from current
as $$
declare
    v_settled text[] := array['applied', 'duplicate', 'conflict', 'currency_mismatch', 'amount_out_of_range'];
begin
    -- Without waiting: a worker that holds the row finds the event settled and removes it.
    delete from payment_queue q
    where q.id = any(array(
        select l.id from payment_queue l
        where l.id = any(array(
            select o.id from unnest(p_outcomes) o
            where o.outcome = any(v_settled) or o.outcome = 'parked' and exists (select from parked_events w where w.id = o.id)))
        for update skip locked));
    delete from parked_events w
    where w.id = any(array(
        select l.id from parked_events l
        where l.id = any(array(select o.id from unnest(p_outcomes) o where o.outcome = any(v_settled)))
        for update skip locked));
end
$$;
comment on function leave_waiting(payment_event_outcome[]) is
    'Removes settled events from the queue and from the parked, and parked ones from the queue.';
revoke all on function leave_waiting from public;
