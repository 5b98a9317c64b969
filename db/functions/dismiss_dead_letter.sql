create or replace function dismiss_dead_letter(p_id bigint, p_note text default null, p_actor text default null) returns void
language plpgsql security definer set search_path from current
as $$
begin
    perform resolve_dead_letter(p_id, 'dismissed', p_actor, p_note);
end
$$;
comment on function dismiss_dead_letter(bigint, text, text) is
    'Closes a dead letter that needs nothing more; the same report does not open it again. Raises PW008.';
revoke all on function dismiss_dead_letter from public;
select grant_to('operator', 'execute on function dismiss_dead_letter');
