create or replace function prune_deliveries(p_older_than interval, p_limit integer default 10000, p_note text default null, p_actor text default null)
returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    -- Ids follow the time, so what is old stands first: nothing beyond is read, however many younger bodies there are.
    v_first bigint[] := array(
        select d.id from deliveries d order by d.id
        limit p_limit + (select count(*) from dead_letters l where l.resolution is null and l.delivery_id is not null));
    v_pruned bigint;
begin
    delete from deliveries d
    where d.id = any(array(
        select o.id from deliveries o
        where o.id = any(v_first) and o.received_at < now() - p_older_than
          and not exists (select from dead_letters l where l.delivery_id = o.id and l.resolution is null)
        order by o.id limit p_limit for update skip locked));
    get diagnostics v_pruned = row_count;
    if v_pruned > 0 then
        perform record_operator_action(p_actor, 'pruned', concat_ws(': ', format('%s deliveries older than %s', v_pruned, p_older_than), p_note), null);
    end if;
    return v_pruned;
end
$$;
comment on function prune_deliveries(interval, integer, text, text) is
    'Deletes up to p_limit request bodies older than that, oldest first, but none that an open dead letter points to, and says how many: call it until it returns 0. Events, ledger and idempotency keys stay.';
revoke all on function prune_deliveries from public;
select grant_to('operator', 'execute on function prune_deliveries');
