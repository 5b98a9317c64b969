create or replace function post_payments(
    p_events payment_events[],
    inout p_invoice_ids bigint[], inout p_states text[]
)
language plpgsql set search_path from current
as $$
declare
    v_phase integer;
    v_bases bigint[] := '{}';
    v_posted bigint[] := '{}';
    v_now_posted bigint[];
    v_postings bigint[];
    v_ids bigint[];
    v_ready bigint[];
    v_awaited boolean := false;
    v_kept_back boolean;
begin
    foreach v_phase in array array(select distinct posting_phase(e.kind) from unnest(p_events) e order by 1) loop
        if v_phase = 3 or v_phase = 2 and 'waiting' = any(p_states) then
            -- What refers to a movement may follow it in the same batch: look again, now that the earlier phases have posted.
            v_ids := array(select e.id from unnest(p_events) e);
            v_ready := array(select case when p_states[e.ordinality] = 'ready' then e.id end from unnest(p_events) with ordinality e);
            select array_agg(coalesce(p_invoice_ids[e.ordinality], m.invoice_id) order by e.ordinality),
                   array_agg(case when base_kind(e.kind) is not null then m.id end order by e.ordinality),
                   array_agg(case
                       when p_states[e.ordinality] not in ('ready', 'waiting', 'repeated') or posting_phase(e.kind) <> v_phase
                           or p_states[e.ordinality] = 'ready' and base_kind(e.kind) is null then p_states[e.ordinality]
                       when p_states[e.ordinality] = 'repeated' and (
                           -- The first time it had to wait, and this is the first time after the movement.
                           m.id = any(v_posted) and array_position(v_ids, e.id) < array_position(v_ready, m.id)
                           and array_position(v_ids, e.id, array_position(v_ready, m.id)) = e.ordinality
                           and (p_states[array_position(v_ids, e.id)] = 'waiting'
                                or p_states[array_position(v_ids, e.id)] = 'ready' and base_kind(e.kind) is not null)
                       ) is not true then 'repeated'
                       when m.id is null or array_position(v_ready, m.id) > e.ordinality and m.id = any(v_posted) then 'waiting'
                       when p_states[e.ordinality] = 'waiting' and m.id <> all(v_posted) then 'waiting'
                       when e.currency <> i.currency then case p_states[e.ordinality] when 'repeated' then 'queued' else 'currency_mismatch' end
                       when base_kind(e.kind) is null then 'ready'
                       when m.invoice_id <> coalesce(p_invoice_ids[e.ordinality], m.invoice_id) or m.amount < e.amount then 'conflict'
                       else 'ready'
                   end order by e.ordinality)
            into p_invoice_ids, v_bases, p_states
            from unnest(p_events) with ordinality e
            left join lateral (
                select * from payments m where m.id = coalesce(e.reverses, (
                    select p.id from payments p
                    where p.connection = e.connection and p.kind = movement_kind(e.kind)
                      and p.reference = movement_reference(e.kind, e.reference, e.parent_reference)))
                offset 0) m on true
            left join lateral (select i.currency from invoices i where i.id = m.invoice_id offset 0) i on true;
        end if;

        -- Phase by phase in the order of the unique key: the third of the fixed orders, after invoices and events.
        with posted as (
            insert into payments (id, invoice_id, amount, reverses, connection, kind, reference)
            select e.id, p_invoice_ids[e.ordinality], e.amount, v_bases[e.ordinality], e.connection, e.kind, e.reference
            from unnest(p_events) with ordinality e
            where p_states[e.ordinality] = 'ready' and posting_phase(e.kind) = v_phase
            order by e.connection, e.kind, e.reference, e.ordinality
            on conflict do nothing
            returning id, invoice_id, kind, amount
        ), moved as (
            update invoices i
            set amount_paid = i.amount_paid + c.paid,
                amount_refunded = i.amount_refunded + c.refunded,
                amount_charged_back = i.amount_charged_back + c.charged_back,
                status = invoice_status(i.amount, i.amount_paid + c.paid, i.amount_refunded + c.refunded, i.amount_charged_back + c.charged_back),
                updated_at = now()
            from (
                select p.invoice_id,
                       sum(case p.kind when 'payment' then p.amount when 'payment_reversal' then -p.amount else 0 end)::bigint as paid,
                       sum(case p.kind when 'refund' then p.amount when 'refund_reversal' then -p.amount else 0 end)::bigint as refunded,
                       sum(case p.kind when 'chargeback' then p.amount when 'chargeback_reversal' then -p.amount else 0 end)::bigint as charged_back
                from posted p
                group by p.invoice_id
            ) c
            where i.id = c.invoice_id
            returning i.id
        )
        select array_agg(p.id), v_awaited or exists (select from parked_events w where w.movement_reference is not null),
               count(distinct p.invoice_id) > (select count(*) from moved)
        into v_now_posted, v_awaited, v_kept_back from posted p;
        if v_kept_back then
            perform raise_kept_back('invoices');
        end if;
        v_posted := v_posted || v_now_posted;
    end loop;

    if v_awaited then
        perform release_parked_events(array(
            select w.id from payments p
            cross join lateral (
                select w.id from parked_events w
                where w.connection = p.connection and w.movement_kind = p.kind and w.movement_reference = p.reference offset 0) w
            where p.id = any(v_posted)));
    end if;

    if cardinality(v_posted) = cardinality(p_events) then
        p_states := array_fill('applied'::text, array[cardinality(p_events)]);
        return;
    end if;
    -- In a statement of its own, so that it sees the posting that was in the way.
    select array_agg(case
            when p_states[e.ordinality] <> 'ready' then p_states[e.ordinality]
            when e.id = any(v_posted) then 'applied'
            when m.id is null then 'kept back'
            when m.id = e.id or m.amount = e.amount and m.invoice_id = p_invoice_ids[e.ordinality] then 'duplicate'
            else 'conflict'
        end order by e.ordinality),
        array_agg(m.id order by e.ordinality)
    into p_states, v_postings
    from unnest(p_events) with ordinality e
    left join lateral (
        select * from payments m where m.id = coalesce(
            (select p.id from payments p where p.id = e.id),
            (select p.id from payments p where p.connection = e.connection and p.kind = e.kind and p.reference = e.reference),
            (select p.id from payments p where p.reverses = v_bases[e.ordinality]))
        offset 0) m on true;
    if 'kept back' = any(p_states) then
        perform raise_kept_back('payments');
    end if;

    insert into payment_reports (id, payment_id)
    select e.id, v_postings[e.ordinality]
    from unnest(p_events) with ordinality e
    where p_states[e.ordinality] = 'duplicate' and v_postings[e.ordinality] <> e.id
    order by e.id
    on conflict do nothing;
end
$$;
comment on function post_payments(payment_events[], bigint[], text[]) is
    'Posts the ready events of a batch, their invoices being locked, to the ledger and the invoices. States become applied, duplicate or conflict; what waits for a movement stays waiting.';
revoke all on function post_payments from public;
