create or replace function store_deliveries(
    p_events payment_events[], p_outcomes payment_event_outcome[], p_bodies bytea[], p_content_types text[], p_deliveries integer[]
) returns void
language plpgsql set search_path from current
as $$
begin
    if array_ndims(p_bodies) <> 1 or array_lower(p_bodies, 1) <> 1 or array_lower(p_content_types, 1) <> 1
            or array_lower(p_deliveries, 1) <> 1 then
        raise exception 'p_bodies, p_content_types and p_deliveries must be arrays of one dimension that begin at 1'
            using errcode = 'array_subscript_error', detail = 'A body is found by the position of its event.',
                  hint = 'array(select unnest(…)) makes one of any array.';
    end if;
    insert into deliveries (id, connection, content_type, body)
    select k.id, k.connection, left(p_content_types[k.position], 255), p_bodies[k.position]
    from (
        select distinct on (e.delivery_id)
               e.delivery_id as id, e.connection, coalesce(p_deliveries[e.ordinality], e.ordinality) as position
        from unnest(p_events) with ordinality e
        where e.delivery_id is not null
          and ((p_outcomes[e.ordinality]).id = e.id    -- stored just now; else an earlier one's id, or none
               or (select min(d.id) from dead_letters d
                   where d.connection = e.connection and d.event_id = e.event_id and d.delivery_id = e.delivery_id) is not null)
        order by e.delivery_id
    ) k;
end
$$;
comment on function store_deliveries(payment_events[], payment_event_outcome[], bytea[], text[], integer[]) is
    'Keeps the bodies of the requests that brought something new.';
revoke all on function store_deliveries from public;
