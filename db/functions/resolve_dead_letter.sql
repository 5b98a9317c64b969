create or replace function resolve_dead_letter(p_id bigint, p_resolution text, p_actor text, p_note text) returns bigint
language plpgsql set search_path from current
as $$
declare
    v_letter dead_letters;
begin
    select * into v_letter from dead_letters d where d.id = p_id for update;
    if not found or v_letter.resolution is not null and (v_letter.resolution <> 'dismissed' or p_resolution = 'dismissed') then
        raise exception 'there is no open dead letter %', p_id
            using errcode = 'PW008',
                  detail = case when v_letter.id is null then 'No dead letter has this id.'
                                else format('It was %s at %s.', v_letter.resolution, v_letter.resolved_at) end,
                  hint = 'select * from open_dead_letters; lists them.';
    elsif v_letter.payment_event_id is null and p_resolution <> 'dismissed' then
        raise exception 'dead letter % is not an event that could be applied', p_id
            using errcode = 'PW008',
                  detail = format('%s: %s', v_letter.reason, v_letter.detail),
                  hint = 'Apply what is right as an event of its own, then dismiss_dead_letter() this one.';
    end if;
    update dead_letters d set resolution = p_resolution, resolved_at = now() where d.id = p_id;
    perform record_operator_action(p_actor, p_resolution, p_note, v_letter.payment_event_id, p_id);
    return v_letter.payment_event_id;
end
$$;
comment on function resolve_dead_letter(bigint, text, text, text) is
    'Marks a dead letter as retried, reassigned or dismissed (a dismissed one may still be retried), records who did it, and returns its event.';
revoke all on function resolve_dead_letter from public;
