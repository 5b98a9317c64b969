create or replace function store_payment_events(
    p_new payment_events[], p_park boolean, p_post boolean, p_invoice_ids bigint[],
    inout p_states text[], out p_events payment_events[], out p_known boolean
)
language plpgsql set search_path from current
as $$
declare
    v_stored integer;
    v_ids bigint[];
    v_held bigint[];
begin
    p_events := p_new;
    -- In the order of the unique key: opposite batches of the same events wait, but never for each other.
    insert into payment_events
    select e.id, e.received_at, e.amount, e.invoice_id, e.reverses, e.delivery_id, e.occurred_at, e.connection, e.event_id,
           e.kind, e.currency, e.invoice_reference, e.reference, e.parent_reference
    from unnest(p_new) with ordinality e
    where p_states[e.ordinality] in ('ready', 'waiting')
       or p_park and p_states[e.ordinality] not in ('busy', 'invalid')
    order by e.connection, e.event_id, e.ordinality
    on conflict (connection, event_id) do nothing;    -- the id is from the sequence, it cannot conflict
    get diagnostics v_stored = row_count;
    p_known := v_stored < cardinality(p_new);
    if not p_known then
        return;
    end if;
    perform await_standby();

    -- In a statement of its own, so that it sees what another transaction had just committed. Known is what is stored
    -- under the same id, unless a later event of this batch has stored it. What is known may be posted now if the
    -- invoice it belongs to, as it was stored, is the one that is locked; else it stays where it is. Parked it also stays
    -- while another transaction holds it, which is about to release or to bury it.
    v_ids := array(select e.id from unnest(p_new) e where e.id is not null);
    if p_post then
        v_held := array(
            select w.id from parked_events w
            where w.id = any(array(
                select k.id from unnest(p_new) with ordinality e
                join lateral (select k.id from payment_events k where k.connection = e.connection and k.event_id = e.event_id offset 0) k on true
                where p_states[e.ordinality] in ('ready', 'waiting')))
            order by w.id for update skip locked);
    end if;
    select array_agg(case when c.known is null or c.conflicts then c.event else c.known end order by c.position),
           array_agg(case
               when c.known is null and (c.state in ('ready', 'waiting') or p_park and c.state not in ('busy', 'invalid')) then 'kept back'
               when c.known is null then c.state
               when c.conflicts then 'rewritten'
               when c.decided then 'repeated'
               when (c.known).id = (c.event).id then c.state
               when (select p.id from payments p where p.id = (c.known).id) is not null
                   or (select r.id from payment_reports r where r.id = (c.known).id) is not null then 'duplicate'
               when (select d.id from dead_letters d where d.payment_event_id = (c.known).id
                     and (d.resolution is null or d.resolution = 'dismissed')) is not null then 'dead'
               when (select w.id from parked_events w where w.id = (c.known).id and w.id <> all(v_held)) is not null
                   and c.state in ('ready', 'waiting') then 'parked'
               when c.state in ('ready', 'waiting', 'busy')
                   and (find_invoices(array[c.known]))[1] is not distinct from p_invoice_ids[c.position] then case
                       when (c.known).currency <> (select i.currency from invoices i where i.id = p_invoice_ids[c.position])
                           then 'currency_mismatch'
                       else c.state end
               when (select w.id from parked_events w where w.id = (c.known).id) is not null then 'parked'
               else 'queued'
           end order by c.position)
    into p_events, p_states
    from (
        select o.*, coalesce(bool_or(o.state in ('ready', 'waiting', 'busy') or (o.known).id = (o.event).id) over (
                   partition by (o.known).id, o.conflicts order by o.position rows between unbounded preceding and 1 preceding), false) as decided
        from (
            select n.*, k::payment_events as known,
                   not (k.kind = (n.event).kind and k.amount = (n.event).amount
                        and k.invoice_id is not distinct from (n.event).invoice_id
                        and k.invoice_reference is not distinct from (n.event).invoice_reference
                        and k.reference is not distinct from (n.event).reference
                        and (k.parent_reference is not distinct from (n.event).parent_reference
                             or num_nonnulls(k.invoice_id, k.invoice_reference) > 0)
                        and coalesce(k.currency = (n.event).currency, true)) as conflicts
            from (select e as event, p_states[row_number() over ()] as state, row_number() over () as position
                  from unnest(p_new) e) n
            left join lateral (
                select * from payment_events k
                where k.connection = (n.event).connection and k.event_id = (n.event).event_id and n.state <> 'invalid'
                  and not (k.id > (n.event).id and k.id = any(v_ids))
                offset 0) k on true
        ) o
    ) c;
    if 'kept back' = any(p_states) then
        perform raise_kept_back('payment_events');
    end if;
end
$$;
comment on function store_payment_events(payment_events[], boolean, boolean, bigint[], text[]) is
    'Stores the events that may be stored: all but busy and invalid ones with p_park, else those whose invoice is known. One known before comes back as it is stored, its place as state unless it may be posted now, for which p_post takes it from the parked; other content under a known id is rewritten.';
revoke all on function store_payment_events from public;
