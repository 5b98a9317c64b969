create or replace function invoice_discrepancies()
returns table (invoice_id bigint, paid bigint, ledger_paid numeric, refunded bigint, ledger_refunded numeric, charged_back bigint, ledger_charged_back numeric)
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select i.id, i.amount_paid, coalesce(l.paid, 0), i.amount_refunded, coalesce(l.refunded, 0), i.amount_charged_back, coalesce(l.charged_back, 0)
    from invoices i
    left join (
        select p.invoice_id as id,
               sum(case p.kind when 'payment' then p.amount when 'payment_reversal' then -p.amount else 0 end) as paid,
               sum(case p.kind when 'refund' then p.amount when 'refund_reversal' then -p.amount else 0 end) as refunded,
               sum(case p.kind when 'chargeback' then p.amount when 'chargeback_reversal' then -p.amount else 0 end) as charged_back
        from payments p group by p.invoice_id
    ) l on l.id = i.id
    where (i.amount_paid, i.amount_refunded, i.amount_charged_back)
        is distinct from (coalesce(l.paid, 0), coalesce(l.refunded, 0), coalesce(l.charged_back, 0));
end
$$;
comment on function invoice_discrepancies() is
    'Invoices whose sums are not what the ledger adds up to: none, unless the owner went round the functions.';
revoke all on function invoice_discrepancies from public;
select grant_to('operator', 'execute on function invoice_discrepancies');
