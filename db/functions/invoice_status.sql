create or replace function invoice_status(p_amount bigint, p_paid bigint, p_refunded bigint, p_charged_back bigint) returns text
language sql immutable parallel safe
return case
    when p_paid - p_refunded - p_charged_back >= p_amount then 'paid'
    when p_paid <= 0 then 'sent'
    when p_charged_back > 0 then 'charged_back'
    when p_paid - p_refunded - p_charged_back <= 0 then 'refunded'
    when p_refunded > 0 then 'partially_refunded'
    else 'partially_paid'
end;
comment on function invoice_status(bigint, bigint, bigint, bigint) is
    'The status of an invoice of this amount with these sums (minor units). A function of sums, so the order of events cannot matter.';
revoke all on function invoice_status from public;
