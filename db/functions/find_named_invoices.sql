create or replace function find_named_invoices(p_text text) returns setof bigint
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select r.invoice_id from invoice_references r where r.reference = p_text
    union
    select i.id from invoices i where i.id = as_invoice_id(p_text);
end
$$;
comment on function find_named_invoices(text) is 'The ids of the invoices that a person means: by their id, or by a reference of any connection.';
revoke all on function find_named_invoices from public;
select grant_to('operator', 'execute on function find_named_invoices');
select grant_to('reader', 'execute on function find_named_invoices');
