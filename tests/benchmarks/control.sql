-- The control: what a plain design does with one event, in one transaction and one function, and as fast as that idea
-- allows. The event's id is the payments' primary key, so it is deduplicated by the ledger itself; no body is stored,
-- nothing can wait, be retried or be undone.
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
