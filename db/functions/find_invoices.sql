create or replace function find_invoices(p_events payment_events[]) returns bigint[]
language plpgsql stable set search_path from current
as $$
begin
    return array(
        select case
            when a.id is not null then a.invoice_id
            when e.invoice_id is not null then e.invoice_id
            when e.invoice_reference is not null then r.invoice_id
            else m.invoice_id
        end
        from unnest(p_events) with ordinality e
        left join reassigned_events a on a.id = e.id
        left join invoice_references r on r.connection = e.connection and r.reference = e.invoice_reference
        left join payments m on m.id = coalesce(e.reverses, (
            select p.id from payments p
            where p.connection = e.connection and p.kind = coalesce(base_kind(e.kind), 'payment')
              and p.reference = case when base_kind(e.kind) is null then e.parent_reference else e.reference end))
        order by e.ordinality);
end
$$;
comment on function find_invoices(payment_events[]) is
    'The invoice of each event: the one an operator gave it to, else the one it names, else that of the posted movement it is about; null where there is none (yet).';
revoke all on function find_invoices from public;
