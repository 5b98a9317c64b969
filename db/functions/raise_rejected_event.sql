create or replace function raise_rejected_event(p_event payment_events, p_outcome payment_event_outcome) returns void
language plpgsql set search_path from current
as $$
begin
    if p_outcome.id is not null or p_outcome.outcome not in ('unknown_invoice', 'invalid', 'currency_mismatch', 'amount_out_of_range') then
        return;
    end if;
    raise exception using
        errcode = case p_outcome.outcome
            when 'unknown_invoice' then 'PW001' when 'invalid' then 'PW002'
            when 'currency_mismatch' then 'PW003' else 'PW004' end,
        message = p_outcome.detail,
        detail = format('event_id %s of connection %s, invoice %s, amount %s. Nothing was stored.', quote_nullable(left(p_event.event_id, 255)),
            quote_nullable(left(p_event.connection, 80)), coalesce(p_event.invoice_id::text, quote_nullable(left(p_event.invoice_reference, 255))), coalesce(p_event.amount::text, 'null')),
        hint = case p_outcome.outcome
            when 'unknown_invoice' then 'Insert the invoice (or its invoice_references row) first, or pass p_park => true to let the event wait for it.'
            when 'invalid' then 'Correct the field that the message names and send the event again.'
            when 'currency_mismatch' then 'Send the amount in the invoice''s currency, or pass p_park => true to keep the event as a dead letter.'
            else 'Split the invoice: its sums are near their limit.' end;
end
$$;
comment on function raise_rejected_event(payment_events, payment_event_outcome) is 'Raises PW001 to PW004 for an event that could not be stored.';
revoke all on function raise_rejected_event from public;
