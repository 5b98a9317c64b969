create or replace function find_invoices(p_events payment_events[]) returns bigint[]
language plpgsql stable set search_path from current
as $$
begin
    return array(
        select coalesce(
            (select a.invoice_id from reassigned_events a where a.id = e.id),
            -- What an operator gave to another invoice, posted or about to be, takes along what is about it and names the old one.
            case when e.kind <> 'payment' and num_nonnulls(e.invoice_id, e.invoice_reference) > 0 then coalesce(
                (select p.invoice_id from payments p join payment_events b on b.id = p.id
                 where p.connection = e.connection and p.kind = movement_kind(e.kind)
                   and p.reference = movement_reference(e.kind, e.reference, e.parent_reference)
                   and (b.invoice_id, b.invoice_reference) is not distinct from (e.invoice_id, e.invoice_reference)),
                (select a.invoice_id from reassigned_events a join payment_queue q on q.id = a.id join payment_events b on b.id = a.id
                 where b.connection = e.connection and b.kind = movement_kind(e.kind)
                   and b.reference = movement_reference(e.kind, e.reference, e.parent_reference)
                   and (b.invoice_id, b.invoice_reference) is not distinct from (e.invoice_id, e.invoice_reference)
                 order by a.id limit 1)) end,
            e.invoice_id,
            case when e.invoice_reference is not null
                then (select r.invoice_id from invoice_references r where r.connection = e.connection and r.reference = e.invoice_reference)
                else (select m.invoice_id from payments m where m.id = coalesce(e.reverses, (
                    select p.id from payments p
                    where p.connection = e.connection and p.kind = movement_kind(e.kind)
                      and p.reference = movement_reference(e.kind, e.reference, e.parent_reference))))
            end)
        from unnest(p_events) e);
end
$$;
comment on function find_invoices(payment_events[]) is
    'The invoice of each event: the one an operator gave it to, or gave what it is about to, else the one it names, else that of the posted movement it is about; null where there is none (yet).';
revoke all on function find_invoices from public;
