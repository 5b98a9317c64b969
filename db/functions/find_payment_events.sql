create or replace function find_payment_events(p_text text) returns setof bigint
language plpgsql stable security definer set search_path from current
as $$
begin
    -- Every key begins with the connection, of which there are few: walk over them.
    return query
    with recursive connections as (
        (select e.connection from payment_events e order by e.connection limit 1)
        union all
        select (select e.connection from payment_events e where e.connection > c.connection order by e.connection limit 1)
        from connections c where c.connection is not null
    ), found as (
        select e.id from connections c join payment_events e on e.connection = c.connection and e.event_id = p_text
        union
        select p.id from connections c
        cross join unnest(array['payment', 'refund', 'chargeback', 'payment_reversal', 'refund_reversal', 'chargeback_reversal']) k (kind)
        join payments p on p.connection = c.connection and p.kind = k.kind and p.reference = p_text
        union
        select w.id from connections c join parked_events w on w.connection = c.connection and w.invoice_reference = p_text
    )
    select f.id from found f order by f.id limit 100;
end
$$;
comment on function find_payment_events(text) is
    'The ids of up to 100 events by what a person has at hand: an event id, the reference of a posted movement, or the invoice reference that a parked event waits for. select * from payment_event_states where id in (select find_payment_events(…));';
revoke all on function find_payment_events from public;
select grant_to('operator', 'execute on function find_payment_events');
select grant_to('reader', 'execute on function find_payment_events');
