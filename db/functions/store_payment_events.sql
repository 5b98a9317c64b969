create or replace function store_payment_events(
    p_new payment_events[], p_park boolean,
    inout p_states text[], out p_events payment_events[], out p_known boolean
)
language plpgsql set search_path from current
as $$
declare
    v_stored integer;
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

    -- In a statement of its own, so that it sees what another transaction had just committed.
    select array_agg(case when c.known is null or c.conflicts then c.event else c.known end order by c.position),
           array_agg(case
               when c.known is null or c.state = 'invalid' then c.state
               when c.conflicts then 'rewritten'
               when c.occurrence > 1 then 'repeated'
               when (c.known).id = (c.event).id then c.state
               when exists (select from payments p where p.id = (c.known).id)
                   or exists (select from payment_reports r where r.id = (c.known).id) then 'duplicate'
               when exists (select from dead_letters d where d.payment_event_id = (c.known).id
                            and (d.resolution is null or d.resolution = 'dismissed')) then 'dead'
               when c.state in ('ready', 'waiting', 'busy')
                   and not exists (select from reassigned_events a where a.id = (c.known).id) then c.state
               when exists (select from parked_events w where w.id = (c.known).id) then 'parked'
               else 'queued'
           end order by c.position)
    into p_events, p_states
    from (
        select o.*, row_number() over (partition by (o.known).id, o.conflicts order by o.position) as occurrence
        from (
            select n.*, k::payment_events as known,
                   not (k.kind = (n.event).kind and k.amount = (n.event).amount
                        and k.invoice_id is not distinct from (n.event).invoice_id
                        and k.invoice_reference is not distinct from (n.event).invoice_reference
                        and k.reference is not distinct from (n.event).reference
                        and coalesce(k.currency = (n.event).currency, true)) as conflicts
            from (select e as event, p_states[row_number() over ()] as state, row_number() over () as position
                  from unnest(p_new) e) n
            left join lateral (
                select * from payment_events k
                where k.connection = (n.event).connection and k.event_id = (n.event).event_id offset 0) k on true
        ) o
    ) c;
end
$$;
comment on function store_payment_events(payment_events[], boolean, text[]) is
    'Stores the events that may be stored: all but busy and invalid ones with p_park, else those whose invoice is known. One known before comes back as it is stored, its place as state unless it may be posted now; other content under a known id is rewritten.';
revoke all on function store_payment_events from public;
