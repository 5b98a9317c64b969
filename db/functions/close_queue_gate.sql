create or replace function close_queue_gate() returns boolean
language plpgsql security definer set search_path from current set lock_timeout = '10ms'
as $$
begin
    -- Waits out the inserters in flight; newcomers meet the waiter and notify. No longer than this: a blocked backend hears no NOTIFY.
    perform pg_advisory_lock('payment_queue'::regclass::oid::integer, 1);
    return true;
exception when lock_not_available then
    return false;
end
$$;
comment on function close_queue_gate() is
    'For the listener on watch, before it sleeps: from here on every insert into the queue notifies. When it returns true, look at the queue once more, in a statement of its own, then sleep; awake, open_queue_gate(). False: a long transaction holds the gate; do not sleep, look again soon.';
revoke all on function close_queue_gate from public;
select grant_to('listener', 'execute on function close_queue_gate');
