create or replace function try_queue_watch() returns boolean
language plpgsql security definer set search_path from current
as $$
begin
    return pg_try_advisory_lock('payment_queue'::regclass::oid::integer, 2);
end
$$;
comment on function try_queue_watch() is
    'Makes this session the listener on watch, the only one that may close the gate; false if another is. Held until the session ends; call it once.';
revoke all on function try_queue_watch from public;
select grant_to('listener', 'execute on function try_queue_watch');
