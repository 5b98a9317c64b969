create or replace function guard_invoice_sums() returns trigger
language plpgsql set search_path from current
as $$
begin
    -- Inside the functions, all SECURITY DEFINER, this runs as the owner, as whom nobody logs in.
    if tg_op = 'INSERT' or current_user <> (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = tg_relid) then
        raise exception 'the sums of an invoice cannot be set by hand'
            using errcode = 'PW006',
                  detail = 'amount_paid, amount_refunded and amount_charged_back are what the ledger adds up to, 0 at first.',
                  hint = 'Post an event: select * from apply_payment_event(''opening-balance-1'', 1, 5000, p_connection => ''opening'').';
    end if;
    return null;
end
$$;
comment on function guard_invoice_sums() is 'Trigger of invoices: only the functions change the sums.';
revoke all on function guard_invoice_sums from public;
