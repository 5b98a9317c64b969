create or replace function as_invoice_id(p_text text) returns bigint
language plpgsql immutable set search_path from current
as $$
begin
    return case when p_text ~ '^-?[0-9]{1,19}$' then
               case when p_text::numeric between -9223372036854775808 and 9223372036854775807 then p_text::bigint end end;
end
$$;
comment on function as_invoice_id(text) is 'The invoices.id that a text is; null where it is none.';
revoke all on function as_invoice_id from public;
