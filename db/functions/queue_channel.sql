create or replace function queue_channel() returns text
language plpgsql stable security definer set search_path from current
as $$
begin
    return 'payment_queue_' || 'payment_queue'::regclass::oid;
end
$$;
comment on function queue_channel() is 'The channel to LISTEN on for this installation''s queue.';
revoke all on function queue_channel from public;
select grant_to('listener', 'execute on function queue_channel');
select grant_to('operator', 'execute on function queue_channel');
