create or replace function payment_event_results(p_events payment_events[], p_outcomes payment_event_outcome[]) returns setof payment_event_result
language plpgsql stable set search_path from current
as $$
begin
    return query
    select e.event_id, o.outcome, b.id, b.status, b.amount, b.currency, b.paid, b.refunded, b.charged_back, b.due, b.overpaid, o.detail
    from unnest(p_events) with ordinality e,
         lateral (select (p_outcomes[e.ordinality]).*) o
    left join lateral (select * from invoice_balances b where b.id = o.invoice_id offset 0) b on true;
end
$$;
comment on function payment_event_results(payment_events[], payment_event_outcome[]) is 'The rows that callers see: what became of each event, and its invoice now.';
revoke all on function payment_event_results from public;
