create or replace function import_invoice_reference(
    p_connection text, p_reference text, p_invoice_id bigint default null, p_invoice_reference text default null,
    p_note text default null, p_actor text default null
) returns text
language plpgsql security definer set search_path from current
as $$
declare
    v_outcome text := link_invoice_reference(p_connection, p_reference, p_invoice_id, p_invoice_reference);
begin
    if v_outcome in ('linked', 'parked') then
        perform record_operator_action(p_actor, 'linked', concat_ws(': ', format('%s of connection %s to invoice %s', p_reference,
            p_connection, coalesce(p_invoice_id::text, p_invoice_reference)), p_note), null);
    end if;
    return v_outcome;
end
$$;
comment on function import_invoice_reference(text, text, bigint, text, text, text) is
    'link_invoice_reference() for an operator, with a trace in operator_actions (linked) of what is new. Raises PW002 for an invalid field.';
revoke all on function import_invoice_reference from public;
select grant_to('operator', 'execute on function import_invoice_reference');
