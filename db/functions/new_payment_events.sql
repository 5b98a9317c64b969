create or replace function new_payment_events(
    p_event_ids text[], p_invoice_ids bigint[], p_amounts bigint[], p_kinds text[], p_currencies text[], p_connections text[],
    p_references text[], p_parent_references text[], p_invoice_references text[], p_occurred_at timestamptz[],
    p_deliveries integer[], p_bodies bytea[]
) returns payment_events[]
language plpgsql set search_path from current
as $$
declare
    v_events payment_events[];
    v_invalid bigint[];
    v_position integer;
    v_delivery_ids bigint[] := case when p_deliveries is not null then array(    -- several events share one
        select case when p_bodies[n] is not null then nextval('deliveries_id_seq') end
        from generate_series(1, cardinality(p_bodies)) n) end;
begin
    select array_agg(n.event),
           array_agg(n.position) filter (where payment_event_error(n.event) is not null)
    into v_events, v_invalid
    from (
        select e.position, row(
            nextval('payment_events_id_seq'), now(), e.amount, e.invoice_id, null,
            case when p_deliveries is not null then v_delivery_ids[coalesce(e.delivery, e.position)]
                 when p_bodies[e.position] is not null then nextval('deliveries_id_seq') end,
            e.occurred_at, coalesce(e.connection, 'direct'), e.event_id, coalesce(e.kind, 'payment'), e.currency,
            e.invoice_reference, e.reference, e.parent_reference)::payment_events as event
        from unnest(p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references,
                    p_parent_references, p_invoice_references, p_occurred_at, p_deliveries) with ordinality
            as e(event_id, invoice_id, amount, kind, currency, connection, reference,
                 parent_reference, invoice_reference, occurred_at, delivery, position)
    ) n;
    foreach v_position in array coalesce(v_invalid, '{}') loop
        v_events[v_position].id := null;
    end loop;
    return coalesce(v_events, '{}');
end
$$;
comment on function new_payment_events is
    'Events from parallel arrays, numbered in input order but not stored yet; an invalid one has no id, and payment_event_error() says why. Null elements take their defaults.';
revoke all on function new_payment_events from public;
