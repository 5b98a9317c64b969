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
        select w.id from parked_events w where w.invoice_id = case when p_text ~ '^[0-9]{1,18}$' then p_text::bigint end
    ) f order by f.id limit 100;
end
$$;
comment on function find_payment_events(text) is
    'The ids of up to 100 events by what a person has at hand: an event id, the reference of a posted movement, or the invoice, invoice reference or movement that a parked event waits for. select * from payment_event_states where id in (select find_payment_events(…));';
revoke all on function find_payment_events from public;
select grant_to('operator', 'execute on function find_payment_events');
select grant_to('reader', 'execute on function find_payment_events');
