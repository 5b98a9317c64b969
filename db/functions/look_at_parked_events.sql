create or replace function look_at_parked_events(
    p_after bigint default 0, p_limit integer default 10000, p_park_days integer default 30,
    out released integer, out dead integer, out last_id bigint
)
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_ids bigint[] := array(select w.id from parked_events w where w.id > p_after order by w.id limit p_limit);
begin
    released := 0;
    dead := 0;
    if p_after = 0 then
        set constraints all immediate;    -- or a deferred trigger of yours on invoice_references would undo it all
        released := link_parked_references(find_released_references());
        select look_at_parked_events.released + e.released, e.dead into released, dead from expire_parked_events(p_park_days) e;
    end if;
    released := released + release_parked_events(find_released_events(v_ids));
    last_id := case when cardinality(v_ids) = p_limit then v_ids[p_limit] end;
end
$$;
comment on function look_at_parked_events(bigint, integer, integer) is
    'Releases those of up to p_limit parked events, by id above p_after, whose invoice or movement has come. last_id: call it again with that as p_after; null: these were the last. From 0 it also links parked references and buries the events, and drops the references, that have been parked for p_park_days.';
revoke all on function look_at_parked_events from public;
select grant_to('listener', 'execute on function look_at_parked_events');
