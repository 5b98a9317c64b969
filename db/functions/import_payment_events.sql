create or replace function import_payment_events(
    p_event_ids text[], p_invoice_ids bigint[] default null, p_amounts bigint[] default null, p_kinds text[] default null,
    p_currencies text[] default null, p_connections text[] default null, p_references text[] default null,
    p_parent_references text[] default null, p_invoice_references text[] default null, p_occurred_at timestamptz[] default null,
    p_bodies bytea[] default null, p_content_types text[] default null, p_deliveries integer[] default null,
    p_park boolean default false, p_note text default null, p_actor text default null
) returns setof payment_event_receipt
language plpgsql security definer set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_receipts payment_event_receipt[] := array(
        select r from enqueue_payment_events(
            p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references, p_parent_references,
            p_invoice_references, p_occurred_at, p_bodies, p_content_types, p_deliveries, p_park) r);
begin
    -- What is known already is no doing of the operator's: queued is what was stored just now, a conflict's letter may be older.
    perform record_operator_action(p_actor, 'imported', p_note, n.payment_event_id, n.dead_letter_id)
    from (
        select distinct e.id as payment_event_id, d.id as dead_letter_id
        from rows from (unnest(v_receipts), unnest(p_connections)) r(event_id, outcome, invoice_id, detail, connection)
        cross join lateral (select coalesce(r.connection, 'direct')) c (connection)
        left join payment_events e on r.outcome = 'queued' and e.connection = c.connection and e.event_id = r.event_id
        left join dead_letters d on r.outcome = 'conflict' and d.connection = c.connection and d.event_id = r.event_id and d.died_at = now()
        where num_nonnulls(e.id, d.id) > 0
        order by e.id, d.id
    ) n;
    return query select r.* from unnest(v_receipts) r;
end
$$;
comment on function import_payment_events is
    'enqueue_payment_events() for an operator who brings events that no webhook brought, from a provider''s export: the same parameters, outcomes and deduplication, and a trace in operator_actions (imported) of each event and dead letter that is new.';
revoke all on function import_payment_events from public;
select grant_to('operator', 'execute on function import_payment_events');
