create or replace function process_claimed_events(
    p_ids bigint[], p_max_attempts integer default 10,
    out claimed integer, out applied integer, out duplicates integer, out parked integer,
    out busy integer, out failed integer, out dead integer
)
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_ids bigint[] := array(select q.id from payment_queue q where q.id = any(p_ids) order by q.id for update skip locked);
    v_outcomes payment_event_outcome[];
    v_failed record;
begin
    claimed := cardinality(v_ids);
    v_outcomes := apply_isolated(
        array(select e from payment_events e where e.id = any(v_ids) order by e.id), p_stored => true, p_park => true, p_wait => false);

    select count(*) filter (where o.outcome = 'applied'), count(*) filter (where o.outcome = 'duplicate'),
           count(*) filter (where o.outcome = 'parked'), count(*) filter (where o.outcome = 'busy'),
           count(*) filter (where o.outcome = 'failed'),
           count(*) filter (where o.outcome in ('conflict', 'currency_mismatch', 'amount_out_of_range'))
    into applied, duplicates, parked, busy, failed, dead
    from unnest(v_outcomes) o;

    if applied = claimed then
        delete from payment_queue q where q.id = any(v_ids);
        return;
    end if;
    perform leave_waiting(v_outcomes, p_claimed => true);
    update payment_queue q set next_attempt_at = now() + interval '0.5 s'
    where q.id = any(array(select o.id from unnest(v_outcomes) o where o.outcome = 'busy'));
    for v_failed in select o.id, o.detail from unnest(v_outcomes) o where o.outcome = 'failed' loop
        dead := dead + fail_payment_event(v_failed.id, v_failed.detail, p_max_attempts)::integer;
    end loop;
end
$$;
comment on function process_claimed_events(bigint[], integer) is
    'Applies claimed events and takes them from the queue; what is not in it, or is claimed by another, is left out. Failed ones are retried later, until p_max_attempts makes dead letters of them; busy ones (invoice locked by another transaction) soon, and no attempt is counted.';
revoke all on function process_claimed_events from public;
select grant_to('listener', 'execute on function process_claimed_events');
