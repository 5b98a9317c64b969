-- The controls of the database. First: what a plain design does with one event, in one transaction and one function, and as
-- fast as that idea allows. The event's id is the payments' primary key, so it is deduplicated by the ledger itself; no body
-- is stored, nothing can wait, be retried or be undone.
create schema control;

create table control.invoices (
    id bigint primary key,
    amount bigint not null check (amount > 0),
    status text not null default 'sent' check (status in ('sent', 'partially_paid', 'paid')),
    amount_paid bigint not null default 0
) with (fillfactor = 80);

create table control.payments (
    event_id text primary key check (length(event_id) between 1 and 255),
    invoice_id bigint not null references control.invoices,
    amount bigint not null check (amount > 0),
    posted_at timestamptz not null default now()
);
create index payments_invoice_id_idx on control.payments (invoice_id);

create function control.apply(p_event_id text, p_invoice_id bigint, p_amount bigint) returns text
language plpgsql
as $$
declare
    v_owed bigint;
    v_paid bigint;
begin
    select i.amount, i.amount_paid + p_amount into v_owed, v_paid
    from control.invoices i where i.id = p_invoice_id for no key update;
    if not found then
        return 'unknown_invoice';
    end if;
    insert into control.payments (event_id, invoice_id, amount) values (p_event_id, p_invoice_id, p_amount)
    on conflict do nothing;
    if not found then
        return 'duplicate';
    end if;
    update control.invoices i
    set amount_paid = v_paid, status = case when v_paid >= v_owed then 'paid' else 'partially_paid' end
    where i.id = p_invoice_id;
    return 'applied';
end
$$;

-- The control of the queue: events in one table with a status column, a partial index over what is pending, claimed with
-- SKIP LOCKED and applied set-wise. The ledger's row is known by the event's, so one unique index deduplicates.
create table control.events (
    id bigint generated always as identity primary key,
    event_id text not null unique check (length(event_id) between 1 and 255),
    invoice_id bigint not null,
    amount bigint not null check (amount > 0),
    status text not null default 'pending' check (status in ('pending', 'processed', 'failed')),
    received_at timestamptz not null default now()
);
create index events_pending_idx on control.events (id) where status = 'pending';

create table control.event_payments (
    event_id bigint primary key,
    invoice_id bigint not null references control.invoices,
    amount bigint not null,
    posted_at timestamptz not null default now()
);
create index event_payments_invoice_id_idx on control.event_payments (invoice_id);

create function control.process(p_batch_size integer) returns integer
language plpgsql
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_ids bigint[] := array(
        select e.id from control.events e where e.status = 'pending' order by e.id limit p_batch_size for update skip locked);
begin
    perform from control.invoices i
    where i.id = any(array(select e.invoice_id from control.events e where e.id = any(v_ids)))
    order by i.id for no key update;
    with posted as (
        insert into control.event_payments (event_id, invoice_id, amount)
        select e.id, e.invoice_id, e.amount from control.events e where e.id = any(v_ids)
        on conflict do nothing
        returning invoice_id, amount
    )
    update control.invoices i
    set amount_paid = i.amount_paid + p.amount,
        status = case when i.amount_paid + p.amount >= i.amount then 'paid' else 'partially_paid' end
    from (select p.invoice_id, sum(p.amount)::bigint as amount from posted p group by p.invoice_id) p
    where i.id = p.invoice_id;
    update control.events e set status = 'processed' where e.id = any(v_ids);
    return cardinality(v_ids);
end
$$;

-- The control of apply_payment_events(): the rows that a batch of payments ends in, in the same tables under the same
-- constraints and the same locks. It decides nothing: every event must be new, valid, and its invoice known.
create function control.write_rows(
    p_event_ids text[], p_invoice_ids bigint[], p_amounts bigint[], p_connections text[], p_currencies text[],
    p_references text[], p_occurred_at timestamptz[], p_bodies bytea[], p_content_types text[]
) returns setof payment_event_result
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_ids bigint[] := array(select nextval('payment_events_id_seq') from unnest(p_event_ids));
    v_deliveries bigint[] := array(select nextval('deliveries_id_seq') from unnest(p_event_ids));
begin
    perform from invoices i where i.id = any(p_invoice_ids) order by i.id for no key update;
    insert into payment_events (id, amount, invoice_id, delivery_id, occurred_at, connection, event_id, kind, currency, reference)
    select e.id, e.amount, e.invoice_id, e.delivery_id, e.occurred_at, e.connection, e.event_id, 'payment', e.currency, e.reference
    from unnest(v_ids, p_amounts, p_invoice_ids, v_deliveries, p_occurred_at, p_connections, p_event_ids, p_currencies, p_references)
        e(id, amount, invoice_id, delivery_id, occurred_at, connection, event_id, currency, reference)
    order by e.connection, e.event_id
    on conflict do nothing;
    with posted as (
        insert into payments (id, invoice_id, amount, connection, kind, reference)
        select e.id, e.invoice_id, e.amount, e.connection, 'payment', e.reference
        from unnest(v_ids, p_invoice_ids, p_amounts, p_connections, p_references) e(id, invoice_id, amount, connection, reference)
        order by e.connection, e.reference
        on conflict do nothing
        returning invoice_id, amount
    )
    update invoices i
    set amount_paid = i.amount_paid + p.paid, updated_at = now(),
        status = invoice_status(i.amount, i.amount_paid + p.paid, i.amount_refunded, i.amount_charged_back)
    from (select p.invoice_id, sum(p.amount)::bigint as paid from posted p group by p.invoice_id) p
    where i.id = p.invoice_id;
    insert into deliveries (id, connection, content_type, body)
    select d.* from unnest(v_deliveries, p_connections, p_content_types, p_bodies) d;
    return query
    select e.event_id, 'applied', b.id, b.status, b.amount, b.currency, b.paid, b.refunded, b.charged_back, b.due, b.overpaid, null::text
    from unnest(p_event_ids, p_invoice_ids) e(event_id, invoice_id)
    join lateral (select * from invoice_balances b where b.id = e.invoice_id offset 0) b on true;
end
$$;
do $$ begin execute format('alter function control.write_rows owner to %I', role_name('owner')); end $$;
