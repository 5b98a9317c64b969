create or replace function foresee_currency_mismatches(
    p_events payment_events[], inout p_invoice_ids bigint[], inout p_states text[]
)
language plpgsql set search_path from current
as $$
declare
    v_invoice_ids bigint[] := p_invoice_ids;
    v_event payment_events;
begin
    for v_position in 1 .. cardinality(p_events) loop
        v_event := p_events[v_position];
        continue when p_states[v_position] <> 'waiting' or exists (
            select from payment_events k where k.connection = v_event.connection and k.event_id = v_event.event_id);
        v_invoice_ids[v_position] := (
            select v_invoice_ids[m.ordinality]
            from unnest(p_events[:v_position - 1]) with ordinality m
            where p_states[m.ordinality] in ('ready', 'waiting') and v_invoice_ids[m.ordinality] is not null
              and m.connection = v_event.connection and m.kind = movement_kind(v_event.kind)
              and m.reference = movement_reference(v_event.kind, v_event.reference, v_event.parent_reference)
              and not exists (select from payment_events k where k.connection = m.connection and k.event_id = m.event_id)
              and not exists (select from unnest(p_events[:m.ordinality - 1]) with ordinality k
                              where k.connection = m.connection and k.event_id = m.event_id and p_states[k.ordinality] in ('ready', 'waiting'))
            order by m.ordinality limit 1);
        if v_event.currency <> (select i.currency from invoices i where i.id = v_invoice_ids[v_position]) then
            p_invoice_ids[v_position] := v_invoice_ids[v_position];
            p_states[v_position] := 'currency_mismatch';
        end if;
    end loop;
end
$$;
comment on function foresee_currency_mismatches(payment_events[], bigint[], text[]) is
    'Refuses, before it is stored, what waits for a new movement earlier in its batch and is in another currency than that one''s invoice.';
revoke all on function foresee_currency_mismatches from public;
