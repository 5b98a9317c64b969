create or replace function link_parked_references(p_links invoice_references[]) returns integer
language plpgsql set search_path from current set lock_timeout = '10ms'
as $$
declare
    v_link invoice_references;
    v_linked integer := 0;
begin
    begin
        with taken as (
            delete from parked_references w using unnest(p_links) l
            where w.connection = l.connection and w.reference = l.reference
            returning l.connection, l.reference, l.invoice_id
        ), linked as (
            insert into invoice_references (connection, reference, invoice_id)
            select t.connection, t.reference, t.invoice_id from taken t order by t.reference, t.connection
            on conflict do nothing
        )
        select count(*) into v_linked from taken;
        return v_linked;
    exception when assert_failure or others then
        v_linked := 0;    -- one by one, then
    end;
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
            when assert_failure or others then
                raise warning 'reference % of connection % stays parked: % (SQLSTATE %)', v_link.reference, v_link.connection, sqlerrm, sqlstate;
        end;
    end loop;
    return v_linked;
end
$$;
comment on function link_parked_references(invoice_references[]) is
    'Makes invoice references of parked ones; says of how many. Where one of them is locked, or a trigger of yours raises, of up to 50: one that is locked, or raises, stays parked. A reference known by now keeps its invoice.';
revoke all on function link_parked_references from public;
