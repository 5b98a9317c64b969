create or replace function link_parked_references(p_links invoice_references[]) returns integer
language plpgsql set search_path from current set lock_timeout = '10ms'
as $$
declare
    v_link invoice_references;
    v_linked integer := 0;
begin
    foreach v_link in array p_links[:50] loop    -- each block is a subtransaction; beyond 64 they slow down every snapshot
        begin
            delete from parked_references w where w.connection = v_link.connection and w.reference = v_link.reference;
            if found then
                insert into invoice_references (connection, reference, invoice_id)
                values (v_link.connection, v_link.reference, v_link.invoice_id)
                on conflict do nothing;
                v_linked := v_linked + 1;
            end if;
        exception
            when lock_not_available then
                null;    -- another holds it, or writes the same reference. Whoever brings an invoice waits for nobody; the poll comes back to it.
            when others then
                raise warning 'reference % of connection % stays parked: % (SQLSTATE %)', v_link.reference, v_link.connection, sqlerrm, sqlstate;
        end;
    end loop;
    return v_linked;
end
$$;
comment on function link_parked_references(invoice_references[]) is
    'Makes invoice references of up to 50 parked ones; says of how many. One that is locked, or where a trigger of yours raises, stays parked. A reference known by now keeps its invoice.';
revoke all on function link_parked_references from public;
