create or replace function open_queue_gate() returns boolean
language plpgsql security definer set search_path from current
as $$
begin
    return pg_advisory_unlock('payment_queue'::regclass::oid::integer, 1);
end
$$;
comment on function open_queue_gate() is 'For the listener on watch, as soon as it is awake: inserts need not notify any more.';
revoke all on function open_queue_gate from public;
select grant_to('listener', 'execute on function open_queue_gate');
