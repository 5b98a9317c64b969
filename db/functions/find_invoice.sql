create or replace function find_invoice(p_connection text, p_invoice_id bigint, p_invoice_reference text) returns bigint
language plpgsql stable set search_path from current
as $$
begin
    return case when p_invoice_id is not null
        then (select i.id from invoices i where i.id = p_invoice_id)
        else (select r.invoice_id from invoice_references r where r.connection = p_connection and r.reference = p_invoice_reference)
    end;
end
$$;
comment on function find_invoice(text, bigint, text) is 'The invoice of this id, else of this reference of the connection; null where there is none (yet).';
revoke all on function find_invoice from public;
