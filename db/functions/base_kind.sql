create or replace function base_kind(p_kind text) returns text
language sql immutable parallel safe
return case p_kind
    when 'payment_reversal' then 'payment'
    when 'refund_reversal' then 'refund'
    when 'chargeback_reversal' then 'chargeback'
end;
comment on function base_kind(text) is 'The kind that a reversal undoes; null for the three kinds that are no reversal.';
revoke all on function base_kind from public;
