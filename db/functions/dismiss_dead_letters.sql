create or replace function dismiss_dead_letters(p_reason text, p_limit integer default 1000, p_note text default null, p_actor text default null)
returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_ids bigint[] := array(
        select d.id from dead_letters d
        where d.resolution is null and d.reason = p_reason
        order by d.id limit p_limit for update skip locked);
begin
    perform dismiss_dead_letter(v.id, p_note, p_actor) from unnest(v_ids) v(id);
    return cardinality(v_ids);
end
$$;
comment on function dismiss_dead_letters(text, integer, text, text) is
    'Dismisses up to p_limit open dead letters of a reason, oldest first, and says how many: call it until it returns 0.';
revoke all on function dismiss_dead_letters from public;
select grant_to('operator', 'execute on function dismiss_dead_letters');
