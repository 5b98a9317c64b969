create or replace function expire_parked_events(p_park_days integer, out released integer, out dead integer)
language plpgsql set search_path from current
as $$
declare
    v_expired bigint[] := array(
        select l.id from parked_events l
        where l.parked_at < now() - make_interval(days => p_park_days)
        limit 500 for update skip locked);
begin
    released := release_parked_events(find_released_events(v_expired));
    with expired as (
        delete from parked_events w where w.id = any(v_expired) returning w.id
    )
    select array_agg(x.id) into v_expired from expired x;
    perform bury_payment_event(x.id, 'park_expired', format('what it waits for did not come in %s days', p_park_days))
    from unnest(v_expired) x(id);
    -- No dead letter for a reference: it carries no money, and an event that waits for it expires by itself.
    delete from parked_references w
    where (w.connection, w.reference) in (
        select l.connection, l.reference from parked_references l
        where l.parked_at < now() - make_interval(days => p_park_days)
          and not exists (select from invoices i where i.id = l.invoice_id)
          and not exists (select from invoice_references r where r.connection = l.connection and r.reference = l.invoice_reference)
        limit 500 for update skip locked);
    dead := coalesce(cardinality(v_expired), 0);
end
$$;
comment on function expire_parked_events(integer) is 'Makes dead letters of up to 500 events that have been parked for longer; releases those for which what they wait for has come. Drops up to 500 parked references as old.';
revoke all on function expire_parked_events from public;
