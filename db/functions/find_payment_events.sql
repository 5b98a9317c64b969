create or replace function find_payment_events(p_text text) returns setof bigint
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select f.id from (
        select e.id from payment_events e where e.event_id = p_text
        union
        select p.id from payments p where p.reference = p_text
        union
        select w.id from parked_events w where w.invoice_reference = p_text
        union
        select w.id from parked_events w where w.movement_reference = p_text
        union
        select w.id from parked_events w where w.invoice_id = as_invoice_id(p_text)
        union
        select e.id from (    -- no index leads to what is not posted
            (select q.id from payment_queue q order by q.id limit 10000)
            union all (select w.id from parked_events w order by w.id limit 10000)
            union all (select d.payment_event_id from dead_letters d
                       where d.payment_event_id is not null and (d.resolution is null or d.resolution = 'dismissed') order by d.id desc limit 10000)) n
        cross join lateral (select k.id, k.reference from payment_events k where k.id = n.id offset 0) e
        where e.reference = p_text
    ) f order by f.id limit 100;
end
$$;
comment on function find_payment_events(text) is
    'The ids of up to 100 events by what a person has at hand: an event id, its reference (of what is not posted, among the first 10,000 that are queued, the first that are parked and the last that are dead), or the invoice, invoice reference or movement that a parked event waits for. select * from payment_event_states where id in (select find_payment_events(…));';
revoke all on function find_payment_events from public;
select grant_to('operator', 'execute on function find_payment_events');
select grant_to('reader', 'execute on function find_payment_events');
