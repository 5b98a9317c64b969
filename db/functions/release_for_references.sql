create or replace function release_for_references() returns trigger
language plpgsql security definer set search_path from current set plan_cache_mode = force_custom_plan
as $$
begin
    if exists (select from parked_events w where w.invoice_reference is not null) then
        perform release_parked_events(array(
            select w.id from inserted i
            join parked_events w on w.connection = i.connection and w.invoice_reference = i.reference));
    end if;
    if exists (select from parked_references w where w.invoice_reference is not null) then
        perform link_parked_references(array(
            select row(w.connection, w.reference, i.invoice_id, now())::invoice_references
            from inserted i
            join parked_references w on w.connection = i.connection and w.invoice_reference = i.reference));
    end if;
    return null;
end
$$;
comment on function release_for_references() is 'Trigger of invoice_references: events that waited for a new name of an invoice go into the queue, references that waited for it are linked to the same invoice.';
revoke all on function release_for_references from public;
