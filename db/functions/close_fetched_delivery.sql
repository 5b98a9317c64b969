create or replace function close_fetched_delivery(p_letter_id bigint) returns void
language plpgsql security definer set search_path from current
as $$
begin
    if exists (select from dead_letters d where d.id = p_letter_id and d.reason = 'not_fetched' and d.resolution is null) then
        perform resolve_dead_letter(p_letter_id, 'dismissed', null, 'the provider''s API has told since');
    end if;
end
$$;
comment on function close_fetched_delivery(bigint) is
    'Closes what claim_unfetched_delivery() gave, once all that it reports is stored. A letter of another reason, or one that a person has closed, stays as it is.';
revoke all on function close_fetched_delivery from public;
select grant_to('server', 'execute on function close_fetched_delivery');
