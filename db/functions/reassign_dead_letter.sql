create or replace function reassign_dead_letter(p_id bigint, p_invoice_id bigint, p_note text default null, p_actor text default null) returns void
language plpgsql security definer set search_path from current
as $$
declare
    v_event bigint;
begin
    if not exists (select from invoices i where i.id = p_invoice_id) then
        raise exception 'invoice % does not exist', p_invoice_id
            using errcode = 'PW001', detail = format('dead letter %s', p_id), hint = 'Insert the invoice first.';
    end if;
    v_event := resolve_dead_letter(p_id, 'reassigned', p_actor, concat_ws(': ', format('to invoice %s', p_invoice_id), p_note));
    insert into reassigned_events (id, invoice_id) values (v_event, p_invoice_id)
    on conflict (id) do update set invoice_id = excluded.invoice_id;
    insert into payment_queue (id) values (v_event) on conflict do nothing;
end
$$;
comment on function reassign_dead_letter(bigint, bigint, text, text) is
    'Gives a dead event to another invoice than the one it named, and puts it back into the queue. The event itself stays as reported. Raises PW001, PW008.';
revoke all on function reassign_dead_letter from public;
select grant_to('operator', 'execute on function reassign_dead_letter');
