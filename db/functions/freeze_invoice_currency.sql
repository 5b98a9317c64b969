create or replace function freeze_invoice_currency() returns trigger
language plpgsql security definer set search_path from current
as $$
begin
    if exists (select from payments p where p.invoice_id = old.id) then
        raise exception 'the currency of invoice % is frozen: payments have posted in %', old.id, old.currency
            using errcode = 'PW007',
                  detail = format('invoice %s, from %s to %s', old.id, old.currency, new.currency),
                  hint = 'Issue another invoice in the new currency.';
    end if;
    new.updated_at := now();
    return new;
end
$$;
comment on function freeze_invoice_currency() is 'Trigger of invoices: no change of currency once an event has posted.';
revoke all on function freeze_invoice_currency from public;
