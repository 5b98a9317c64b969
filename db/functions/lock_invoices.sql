create or replace function lock_invoices(
    p_events payment_events[], p_wait boolean,
    out p_invoice_ids bigint[], out p_states text[], out p_near_limit boolean
)
language plpgsql set search_path from current
as $$
declare
    v_wanted bigint[];
    v_locked bigint[];
begin
    p_invoice_ids := find_invoices(p_events);
    v_wanted := array(select distinct i.id from unnest(p_invoice_ids) i(id) where i.id is not null order by i.id);
    -- Always in the order of ids: two batches over the same invoices wait, but never for each other.
    if p_wait then
        v_locked := array(select i.id from invoices i where i.id = any(v_wanted) order by i.id for no key update);
    else
        v_locked := array(select i.id from invoices i where i.id = any(v_wanted) order by i.id for no key update skip locked);
    end if;

    select array_agg(case
            when e.id is null then 'invalid'
            when p_invoice_ids[e.ordinality] is null and coalesce(e.invoice_id::text, e.invoice_reference) is null then 'waiting'
            when i.id is null then 'unknown_invoice'
            when cardinality(v_locked) < cardinality(v_wanted) and i.id <> all(v_locked)
                then case when p_wait then 'unknown_invoice' else 'busy' end    -- with p_wait it has come since
            when e.currency <> i.currency then 'currency_mismatch'
            when cardinality(p_events) = 1
                and e.amount + greatest(i.amount_paid, i.amount_refunded, i.amount_charged_back) > 1000000000000000000
                and base_kind(e.kind) is null then 'amount_out_of_range'
            else 'ready'
        end),
        coalesce(max(greatest(i.amount_paid, i.amount_refunded, i.amount_charged_back)) + sum(e.amount) filter (where e.id is not null)
                 > 1000000000000000000, false)    -- a sum of bigint is numeric
    into p_states, p_near_limit
    from unnest(p_events) with ordinality e
    left join lateral (select * from invoices i where i.id = p_invoice_ids[e.ordinality] offset 0) i on true;
end
$$;
comment on function lock_invoices(payment_events[], boolean) is
    'Finds and locks the invoices of a batch. Each event is then ready, busy (its invoice is locked by another; never with p_wait), waiting (for the movement it is about), unknown_invoice, currency_mismatch, amount_out_of_range or invalid.';
revoke all on function lock_invoices from public;
