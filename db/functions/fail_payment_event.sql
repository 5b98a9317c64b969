create or replace function fail_payment_event(p_id bigint, p_error text, p_max_attempts integer default 10) returns boolean
language plpgsql security definer set search_path from current
as $$
declare
    v_attempts integer;
begin
    update payment_queue q
    set attempts = q.attempts + 1,
        next_attempt_at = now() + least(power(2, q.attempts), 3600) * (0.5 + random()) * interval '1 s',
        last_error = left(p_error, 2000)
    where q.id = p_id
    returning q.attempts into v_attempts;
    if v_attempts < p_max_attempts or not found then
        return false;
    end if;
    perform bury_payment_event(p_id, 'attempts_exhausted', left(p_error, 2000), v_attempts);
    delete from payment_queue q where q.id = p_id;
    return true;
end
$$;
comment on function fail_payment_event(bigint, text, integer) is
    'Counts a failed attempt at a queued event and schedules the next one: 1 s, 2 s, 4 s … 1 h, each half to one and a half of that. At p_max_attempts it becomes a dead letter, and this returns true.';
revoke all on function fail_payment_event from public;
select grant_to('listener', 'execute on function fail_payment_event');
