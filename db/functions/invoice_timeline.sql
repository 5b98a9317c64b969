create or replace function invoice_timeline(p_invoice_id bigint)
returns table (at timestamptz, place text, connection text, event_id text, kind text, amount bigint, balance numeric, reference text, detail text)
language plpgsql stable security definer set search_path from current
as $$
declare
    -- In a statement of its own: whatever waits is looked through once, and what is found is read by its key.
    v_waiting bigint[] := array(
        select e.id
        from (select q.id from payment_queue q
              union all select w.id from parked_events w
              union all select d.payment_event_id from dead_letters d where d.resolution is null) v
        join payment_events e on e.id = v.id
        left join reassigned_events a on a.id = e.id
        left join invoice_references n on n.connection = e.connection and n.reference = e.invoice_reference
        left join payments m on num_nonnulls(e.invoice_id, e.invoice_reference) = 0 and m.connection = e.connection
            and m.kind = movement_kind(e.kind)
            and m.reference = movement_reference(e.kind, e.reference, e.parent_reference)
        where coalesce(a.invoice_id, e.invoice_id, n.invoice_id, m.invoice_id) = p_invoice_id);
begin
    return query
    with posted as (
        select p.id, p.posted_at, case when p.kind in ('payment', 'refund_reversal', 'chargeback_reversal') then p.amount else -p.amount end as change
        from payments p
        where p.invoice_id = p_invoice_id
    ), shown as (
        select p.id, p.posted_at as shown_at, p.change, sum(p.change) over (order by p.posted_at, p.id) as total from posted p
        union all
        select r.id, e.received_at, null, null from posted p join payment_reports r on r.payment_id = p.id join payment_events e on e.id = r.id
        union all
        select e.id, e.received_at, null, null from payment_events e where e.id = any (v_waiting)
    )
    select s.shown_at, t.place, t.connection, t.event_id, t.kind, coalesce(s.change, t.amount), s.total, t.reference, t.detail
    from shown s join payment_event_states t on t.id = s.id
    where t.id = any (array(select v.id from shown v))    -- else the view is read from end to end
    order by s.shown_at, s.id;
end
$$;
comment on function invoice_timeline(bigint) is
    'Everything about one invoice in order: what posted, signed, with the running balance (net received, minor units), and what was a further report, waits or is dead, without one.';
revoke all on function invoice_timeline from public;
select grant_to('operator', 'execute on function invoice_timeline');
select grant_to('reader', 'execute on function invoice_timeline');
