create or replace function release_for_invoices() returns trigger
language plpgsql security definer set search_path from current set plan_cache_mode = force_custom_plan
as $$
begin
    if exists (select from parked_events w where w.invoice_id is not null) then
        perform release_parked_events(array(select w.id from inserted i join parked_events w on w.invoice_id = i.id));
    end if;
    if exists (select from parked_references w where w.invoice_id is not null) then
        perform link_parked_references(array(
            select row(w.connection, w.reference, i.id, now())::invoice_references
            from inserted i join parked_references w on w.invoice_id = i.id));
    end if;
    return null;
end
$$;
comment on function release_for_invoices() is 'Trigger of invoices: events that waited for a new invoice go into the queue, references that waited for it are linked to it.';
revoke all on function release_for_invoices from public;
