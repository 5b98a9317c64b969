create or replace function release_for_references() returns trigger
language plpgsql security definer set search_path from current set plan_cache_mode = force_custom_plan
as $$
begin
    if exists (select from parked_events w where w.invoice_reference is not null) then
        perform release_parked_events(array(
            select w.id from inserted i
            join parked_events w on w.connection = i.connection and w.invoice_reference = i.reference));
    end if;
    return null;
end
$$;
comment on function release_for_references() is 'Trigger of invoice_references: what waited for a new name of an invoice goes into the queue.';
revoke all on function release_for_references from public;
