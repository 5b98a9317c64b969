create or replace function follow_invoice_amount() returns trigger
language plpgsql security definer set search_path from current
as $$
begin
    new.status := invoice_status(new.amount, new.amount_paid, new.amount_refunded, new.amount_charged_back);
    new.updated_at := now();
    return new;
end
$$;
comment on function follow_invoice_amount() is 'Trigger of invoices: a changed amount changes the status.';
revoke all on function follow_invoice_amount from public;
