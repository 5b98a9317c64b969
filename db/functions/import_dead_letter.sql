create or replace function import_dead_letter(
    p_connection text, p_reason text, p_detail text, p_body bytea, p_content_type text default null, p_event_id text default null,
    p_note text default null, p_actor text default null
) returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_id bigint := store_dead_letter(p_connection, p_reason, p_detail, p_body, p_content_type, p_event_id);
begin
    if v_id is not null then
        perform record_operator_action(p_actor, 'imported', p_note, null, v_id);
    end if;
    return v_id;
end
$$;
comment on function import_dead_letter(text, text, text, bytea, text, text, text, text) is
    'store_dead_letter() for an operator, with a trace in operator_actions (imported). Null when the same letter is kept already.';
revoke all on function import_dead_letter from public;
select grant_to('operator', 'execute on function import_dead_letter');
