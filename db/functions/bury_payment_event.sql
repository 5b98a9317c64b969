create or replace function bury_payment_event(p_id bigint, p_reason text, p_detail text, p_attempts integer default 0) returns void
language plpgsql set search_path from current
as $$
begin
    insert into dead_letters (payment_event_id, delivery_id, connection, event_id, reason, detail, attempts)
    select e.id, e.delivery_id, e.connection, e.event_id, p_reason, p_detail, p_attempts
    from payment_events e
    where e.id = p_id
    on conflict do nothing;
    if not found and (select d.id from dead_letters d where d.payment_event_id = p_id and (d.resolution is null or d.resolution = 'dismissed')) is null then
        perform raise_kept_back('dead_letters');
    end if;
end
$$;
comment on function bury_payment_event(bigint, text, text, integer) is 'Makes a dead letter of a stored event.';
revoke all on function bury_payment_event from public;
