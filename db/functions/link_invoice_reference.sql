create or replace function link_invoice_reference(
    p_connection text, p_reference text, p_invoice_id bigint default null, p_invoice_reference text default null
) returns text
language plpgsql security definer set search_path from current
as $$
declare
    v_error text := case
        when p_connection is null or length(p_connection) not between 1 and 63
                or rtrim(p_connection, 'abcdefghijklmnopqrstuvwxyz0123456789_-') <> ''
            then format('connection must be 1 to 63 of a-z, 0-9, _ and -, not %L', left(p_connection, 80))
        when p_reference is null or length(p_reference) not between 1 and 255 then 'reference must be 1 to 255 characters'
        when length(p_invoice_reference) not between 1 and 255 then 'invoice_reference must be 1 to 255 characters'
        when p_invoice_reference = p_reference then 'invoice_reference must be another reference'
        when num_nonnulls(p_invoice_id, p_invoice_reference) <> 1 then 'invoice_id or invoice_reference must name the invoice, and only one of them'
    end;
    v_invoice_id bigint;
begin
    if v_error is not null then
        raise exception '%', v_error
            using errcode = 'PW002',
                  detail = format('reference %s of connection %s, invoice %s. Nothing was stored.', quote_nullable(left(p_reference, 255)),
                      quote_nullable(left(p_connection, 80)), coalesce(p_invoice_id::text, quote_nullable(left(p_invoice_reference, 255)))),
                  hint = 'Correct the field that the message names and link again.';
    end if;

    v_invoice_id := find_invoice(p_connection, p_invoice_id, p_invoice_reference);
    if v_invoice_id is null and find_invoice(p_connection, null, p_reference) is null then
        -- An invoice's id says more than a reference that is unknown itself, so it takes that one's place.
        insert into parked_references as w (connection, reference, invoice_id, invoice_reference)
        values (p_connection, p_reference, p_invoice_id, p_invoice_reference)
        on conflict (connection, reference) do update set invoice_id = excluded.invoice_id, invoice_reference = null
            where w.invoice_id is null and excluded.invoice_id is not null;
        if found then
            -- It may have come while we parked: a look with a fresh snapshot.
            v_invoice_id := find_invoice(p_connection, p_invoice_id, p_invoice_reference);
            if v_invoice_id is null then
                return 'parked';
            end if;
        end if;
    end if;

    if v_invoice_id is not null and not exists (
            select from parked_references w
            where w.connection = p_connection and w.reference = p_reference and w.invoice_id <> v_invoice_id) then
        insert into invoice_references (connection, reference, invoice_id) values (p_connection, p_reference, v_invoice_id)
        on conflict do nothing;
        if found then
            delete from parked_references w where w.connection = p_connection and w.reference = p_reference;
            return 'linked';
        end if;
    end if;

    perform await_standby();
    -- Known or parked before, perhaps by another a moment ago: a statement of its own sees that one's row.
    v_invoice_id := coalesce(v_invoice_id, p_invoice_id);
    return (
        select case when (case when r.invoice_id is not null then r.invoice_id <> v_invoice_id
                               else w.invoice_id <> v_invoice_id or w.invoice_reference <> p_invoice_reference end)
            then 'conflict' else 'duplicate' end
        from (values (p_connection, p_reference)) l (connection, reference)
        left join invoice_references r on r.connection = l.connection and r.reference = l.reference
        left join parked_references w on w.connection = l.connection and w.reference = l.reference);
end
$$;
comment on function link_invoice_reference(text, text, bigint, text) is
    'Says that a reference belongs to an invoice, named by its id or by another reference of the connection: select link_invoice_reference(''stripe'', ''pi_1'', 42), or (''stripe'', ''pi_1'', p_invoice_reference => ''in_1''). '
    'Outcome linked, duplicate (known before), parked (the invoice or the other reference is not there yet: linked when it comes) or conflict (known for another invoice, or parked for another one: nothing changes). Raises PW002 for an invalid field.';
revoke all on function link_invoice_reference from public;
select grant_to('server', 'execute on function link_invoice_reference');
