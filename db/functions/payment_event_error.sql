create or replace function payment_event_error(p_event payment_events) returns text
language sql stable parallel safe
return case
    when p_event.event_id is null or length(p_event.event_id) not between 1 and 255
        then 'event_id must be 1 to 255 characters'
    when p_event.amount is null or p_event.amount not between 1 and 1000000000000000
        then format('amount must be 1 to 10^15 minor units, not %s', coalesce(p_event.amount::text, 'null'))
    when p_event.kind not in ('payment', 'refund', 'chargeback', 'payment_reversal', 'refund_reversal', 'chargeback_reversal')
        then format('kind must be payment, refund, chargeback or one of these with _reversal, not %L', left(p_event.kind, 40))
    when length(p_event.currency) <> 3 or rtrim(p_event.currency, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') <> ''
        then format('currency must be three capital letters (ISO 4217), not %L', left(p_event.currency, 40))
    when length(p_event.connection) not between 1 and 63
            or rtrim(p_event.connection, 'abcdefghijklmnopqrstuvwxyz0123456789_-') <> ''
        then format('connection must be 1 to 63 of a-z, 0-9, _ and -, not %L', left(p_event.connection, 80))
    when p_event.connection = 'operator' then 'connection operator is that of void_payment(); name another'
    when length(p_event.reference) not between 1 and 255 then 'reference must be 1 to 255 characters'
    when length(p_event.parent_reference) not between 1 and 255 then 'parent_reference must be 1 to 255 characters'
    when length(p_event.invoice_reference) not between 1 and 255 then 'invoice_reference must be 1 to 255 characters'
    when right(p_event.kind, 9) = '_reversal' and num_nonnulls(p_event.reference, p_event.reverses) = 0
        then format('reference must name the movement that this %s undoes', p_event.kind)
    when p_event.kind = 'payment' and num_nonnulls(p_event.invoice_id, p_event.invoice_reference) = 0
        then 'invoice_id or invoice_reference must name the invoice of a payment'
    when p_event.kind in ('refund', 'chargeback')
            and num_nonnulls(p_event.invoice_id, p_event.invoice_reference, p_event.parent_reference) = 0
        then 'invoice_id, invoice_reference or parent_reference must name the invoice'
end;
comment on function payment_event_error(payment_events) is
    'What is wrong with an event''s own fields, naming the field; null when nothing is.';
revoke all on function payment_event_error from public;
