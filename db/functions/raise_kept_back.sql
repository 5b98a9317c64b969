create or replace function raise_kept_back(p_table text) returns void
language plpgsql set search_path from current
as $$
begin
    raise exception 'a trigger on % kept a row from being written', p_table
        using errcode = 'triggered_action_exception',
              detail = 'Nothing else is in its way. Without it the event would be in no place, or the invoice not say what the ledger says.',
              hint = 'A BEFORE trigger has to return new.';
end
$$;
comment on function raise_kept_back(text) is 'Raises 09000, for a BEFORE trigger of yours that returned null.';
revoke all on function raise_kept_back from public;
