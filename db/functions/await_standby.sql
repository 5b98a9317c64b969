create or replace function await_standby() returns void
language plpgsql set search_path from current
as $$
begin
    if current_setting('synchronous_standby_names') <> '' then
        perform pg_logical_emit_message(true, 'payment_webhooks', '');
    end if;
end
$$;
comment on function await_standby() is
    'Makes the commit of a transaction that found everything known wait for synchronous standbys, as if it wrote: whoever wrote it may have been cut off while waiting for them.';
revoke all on function await_standby from public;
