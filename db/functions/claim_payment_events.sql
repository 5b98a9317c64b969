create or replace function claim_payment_events(p_batch_size integer default 500, p_after bigint default 0, p_retries boolean default null)
returns bigint[]
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off set enable_bitmapscan = off
as $$
declare
    v_ids bigint[] := '{}';
begin
    if p_retries is not true then
        v_ids := array(
            select q.id from payment_queue q
            where q.id > p_after and q.attempts = 0 and q.next_attempt_at <= now()
            order by q.id
            limit p_batch_size for update skip locked);
    end if;
    -- What has failed before is claimed apart: should it take the whole transaction down, no fresh event goes with it.
    if v_ids = '{}' and p_retries is not false then
        v_ids := array(
            select q.id from payment_queue q
            where q.attempts > 0 and q.next_attempt_at <= now()
            order by q.next_attempt_at
            limit p_batch_size for update skip locked);
    end if;
    return v_ids;
end
$$;
comment on function claim_payment_events(integer, bigint, boolean) is
    'Locks up to p_batch_size due events of the queue that nobody else has locked, and returns their ids; the claim ends with the transaction. Fresh events with an id above p_after, else (or only, with p_retries) events that failed before.';
revoke all on function claim_payment_events from public;
select grant_to('listener', 'execute on function claim_payment_events');
