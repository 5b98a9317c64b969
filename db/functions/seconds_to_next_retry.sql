create or replace function seconds_to_next_retry() returns double precision
language plpgsql stable security definer set search_path from current
as $$
begin
    return (select extract(epoch from min(q.next_attempt_at) - clock_timestamp()) from payment_queue q where q.attempts > 0);
end
$$;
comment on function seconds_to_next_retry() is
    'Seconds until the next event that has failed is due again, negative when it is overdue; null: none has failed.';
revoke all on function seconds_to_next_retry from public;
select grant_to('listener', 'execute on function seconds_to_next_retry');
