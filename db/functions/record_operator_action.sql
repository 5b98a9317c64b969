create or replace function record_operator_action(
    p_actor text, p_action text, p_note text, p_payment_event_id bigint, p_dead_letter_id bigint default null
) returns void
language plpgsql set search_path from current
as $$
begin
    insert into operator_actions (actor, action, note, payment_event_id, dead_letter_id)
    values (coalesce(p_actor, session_user), p_action, p_note, p_payment_event_id, p_dead_letter_id);
end
$$;
comment on function record_operator_action(text, text, text, bigint, bigint) is 'Writes the trace of an operator''s call; without p_actor, under the name of the login.';
revoke all on function record_operator_action from public;
