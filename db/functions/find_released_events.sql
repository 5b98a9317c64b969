create or replace function find_released_events(p_ids bigint[]) returns bigint[]
language plpgsql stable set search_path from current
as $$
begin
    return array(
        select w.id from parked_events w
        where w.id = any(p_ids)
          and case
                  when w.invoice_id is not null then (select i.id from invoices i where i.id = w.invoice_id)
                  when w.invoice_reference is not null then (
                      select r.invoice_id from invoice_references r
                      where r.connection = w.connection and r.reference = w.invoice_reference)
                  else (
                      select p.id from payments p
                      where p.connection = w.connection and p.kind = w.movement_kind and p.reference = w.movement_reference)
              end is not null);
end
$$;
comment on function find_released_events(bigint[]) is
    'Those of these parked events for which what they wait for exists by now. Every poll asks: the triggers are speed, this is the guarantee.';
revoke all on function find_released_events from public;
