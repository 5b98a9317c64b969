create or replace function fail_payment_event(p_id bigint, p_error text, p_max_attempts integer default 10) returns boolean
language plpgsql security definer set search_path from current
as $$
declare
    v_attempts integer;
    v_invoice_ids bigint[];
begin
    update payment_queue q
    set attempts = q.attempts + 1,
        next_attempt_at = now() + least(power(2, least(q.attempts, 12)), 3600) * (0.5 + random()) * interval '1 s',
        last_error = left(p_error, 2000)
    where q.id = p_id
    returning q.attempts into v_attempts;
    if v_attempts < p_max_attempts or not found then
        return false;
    end if;
    -- Whoever applies it meanwhile holds its invoice: then the next attempt sees what came of it.
    v_invoice_ids := find_invoices(array(select e from payment_events e where e.id = p_id));
    if (select i.id from invoices i where i.id = any(v_invoice_ids) for no key update skip locked) is null
            and exists (select from invoices i where i.id = any(v_invoice_ids)) then
        return false;
    end if;
    if (select p.id from payments p where p.id = p_id) is not null or (select r.id from payment_reports r where r.id = p_id) is not null then
        delete from payment_queue q where q.id = p_id;
        return false;
    end if;
    perform bury_payment_event(p_id, 'attempts_exhausted', left(p_error, 2000), v_attempts);
    delete from payment_queue q where q.id = p_id;
    return true;
end
$$;
comment on function fail_payment_event(bigint, text, integer) is
    'Counts a failed attempt at a queued event and schedules the next one: 1 s, 2 s, 4 s … 1 h, each half to one and a half of that. At p_max_attempts it becomes a dead letter, and this returns true, unless it was applied meanwhile.';
revoke all on function fail_payment_event from public;
select grant_to('listener', 'execute on function fail_payment_event');
