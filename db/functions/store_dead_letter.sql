create or replace function store_dead_letter(
    p_connection text, p_reason text, p_detail text, p_body bytea, p_content_type text default null, p_event_id text default null
) returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_id bigint;
begin
    insert into dead_letters (connection, event_id, reason, detail, delivery_id, fingerprint)
    values (p_connection, left(p_event_id, 255), p_reason, left(p_detail, 2000), nextval('deliveries_id_seq'),
            encode(sha256(p_body || convert_to(coalesce(p_detail, ''), 'UTF8')), 'hex'))
    on conflict do nothing
    returning id into v_id;
    if found then
        insert into deliveries (id, connection, content_type, body)
        select d.delivery_id, p_connection, left(p_content_type, 255), p_body from dead_letters d where d.id = v_id;
    else
        perform await_standby();
    end if;
    return v_id;
end
$$;
comment on function store_dead_letter(text, text, text, bytea, text, text) is
    'Keeps an authentic request that is not usable as an event, with its body, for a person to look at. Null when the same body is kept already for the same detail.';
revoke all on function store_dead_letter from public;
select grant_to('server', 'execute on function store_dead_letter');
