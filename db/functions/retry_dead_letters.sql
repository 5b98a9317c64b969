create or replace function retry_dead_letters(p_reason text, p_limit integer default 1000, p_note text default null, p_actor text default null)
returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_ids bigint[] := array(
        select d.id from dead_letters d
        where d.resolution is null and d.payment_event_id is not null and (p_reason is null or d.reason = p_reason)
        order by d.id limit p_limit for update skip locked);
begin
    perform retry_dead_letter(v.id, p_note, p_actor) from unnest(v_ids) v(id);
    return cardinality(v_ids);
end
$$;
comment on function retry_dead_letters(text, integer, text, text) is
    'Retries up to p_limit open dead events of a reason (null: of any), oldest first, and says how many: fewer than p_limit, and these were all.';
revoke all on function retry_dead_letters from public;
select grant_to('operator', 'execute on function retry_dead_letters');
