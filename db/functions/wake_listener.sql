create or replace function wake_listener() returns trigger
language plpgsql security definer set search_path from current
as $$
begin
    -- The gate: whoever gets it shared knows that the listener on watch is awake and will look after this commit.
    -- A NOTIFY takes a cluster-wide lock over the commit's flush, so it is sent only where somebody sleeps.
    if exists (select from inserted)
            and not pg_try_advisory_xact_lock_shared(tg_relid::integer, 1)
            and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('payment_queue_' || tg_relid, '');
    end if;
    return null;
end
$$;
comment on function wake_listener() is
    'Trigger of payment_queue: notifies the listener if it sleeps (see close_queue_gate). The poll is the guarantee, this is the speed.';
revoke all on function wake_listener from public;
