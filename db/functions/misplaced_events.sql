create or replace function misplaced_events() returns table (id bigint, places text[])
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select e.id, array_remove(array_agg(p.place order by p.place), null)
    from payment_events e
    left join (
        select o.id, 'posted' as place from payments o
        union all select r.id, 'reported' from payment_reports r
        union all select q.id, 'queued' from payment_queue q
        union all select w.id, 'parked' from parked_events w
        union all select d.payment_event_id, 'dead' from dead_letters d where d.resolution is null or d.resolution = 'dismissed'
    ) p on p.id = e.id
    group by e.id
    having count(p.place) <> 1;
end
$$;
comment on function misplaced_events() is
    'The check that every event is in exactly one place: posted, reported, queued, parked or dead. No rows, or posted besides queued or parked for a moment after an event was applied ahead of the queue.';
revoke all on function misplaced_events from public;
select grant_to('operator', 'execute on function misplaced_events');
