create or replace function void_payment(p_connection text, p_event_id text, p_note text default null, p_actor text default null)
returns payment_event_result
language plpgsql security definer set search_path from current
as $$
declare
    v_payment payments;
    v_reversal payments;
    v_events payment_events[];
    v_outcomes payment_event_outcome[];
begin
    select p.* into v_payment
    from payment_events e join payments p on p.id = e.id
    where e.connection = p_connection and e.event_id = p_event_id;
    if not found or base_kind(v_payment.kind) is not null then
        raise exception 'event % of connection % cannot be voided', quote_nullable(p_event_id), quote_nullable(p_connection)
            using errcode = 'PW010',
                  detail = case when v_payment.id is null then 'It is not posted.' else format('It is a %s.', v_payment.kind) end,
                  hint = 'select * from payment_event_states where event_id = …; shows where an event is. A reversal cannot be reversed: apply the event anew.';
    end if;
    select p.* into v_reversal from payments p where p.reverses = v_payment.id;
    if v_reversal.amount <> v_payment.amount then
        raise exception 'event % of connection % was reversed in part', quote_literal(p_event_id), quote_literal(p_connection)
            using errcode = 'PW010',
                  detail = format('A %s took back %s of its %s.', v_reversal.kind, v_reversal.amount, v_payment.amount),
                  hint = 'Post the rest as an event of its own, such as a refund.';
    end if;
    v_events := array[row(nextval('payment_events_id_seq'), now(), v_payment.amount, v_payment.invoice_id, v_payment.id, null, null,
                          'operator', 'void:' || v_payment.id, v_payment.kind || '_reversal', null, null, null, null)::payment_events];
    v_outcomes := apply_batch(v_events, p_stored => false, p_park => false, p_wait => true);
    if v_outcomes[1].outcome = 'applied' then
        perform record_operator_action(p_actor, 'voided', p_note, v_payment.id);
    end if;
    return payment_event_results(v_events, v_outcomes);
end
$$;
comment on function void_payment(text, text, text, text) is
    'Undoes a posted event by a reversal of connection operator; the ledger keeps both. Outcome duplicate: it had been reversed before. Raises PW010 for what is not posted, is itself a reversal or was reversed in part.';
revoke all on function void_payment from public;
select grant_to('operator', 'execute on function void_payment');
