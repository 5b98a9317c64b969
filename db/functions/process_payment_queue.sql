create or replace function process_payment_queue(
    p_batch_size integer default 500, p_after bigint default 0, p_retries boolean default null,
    p_max_attempts integer default 10, p_park_days integer default 30,
    out claimed integer, out applied integer, out duplicates integer, out parked integer,
    out busy integer, out failed integer, out dead integer, out released integer, out last_id bigint
)
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_ids bigint[] := claim_payment_events(p_batch_size, p_after, p_retries);
begin
    select p.*, 0, v_ids[cardinality(v_ids)]
    into claimed, applied, duplicates, parked, busy, failed, dead, released, last_id
    from process_claimed_events(v_ids, p_max_attempts) p;
    if claimed < p_batch_size and p_after = 0 then
        select l.released, process_payment_queue.dead + l.dead into released, dead
        from look_at_parked_events(p_limit => null, p_park_days => p_park_days) l;
    end if;
end
$$;
comment on function process_payment_queue(integer, bigint, boolean, integer, integer) is
    'Applies up to p_batch_size due events of the queue in one transaction: call it until claimed and released are 0. A call that finds no more also releases parked events and references whose invoice or movement has come, buries the events and drops the references that have been parked for p_park_days.';
revoke all on function process_payment_queue from public;
select grant_to('listener', 'execute on function process_payment_queue');
