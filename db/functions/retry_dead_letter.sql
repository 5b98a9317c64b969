create or replace function retry_dead_letter(p_id bigint, p_note text default null, p_actor text default null) returns void
language plpgsql security definer set search_path from current
as $$
begin
    insert into payment_queue (id) values (resolve_dead_letter(p_id, 'retried', p_actor, p_note)) on conflict do nothing;
end
$$;
comment on function retry_dead_letter(bigint, text, text) is
    'Puts a dead event back into the queue, once its cause is mended. Raises PW008 when dead_letters.id p_id is not open or is no event.';
revoke all on function retry_dead_letter from public;
select grant_to('operator', 'execute on function retry_dead_letter');
