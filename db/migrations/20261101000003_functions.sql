-- The functions as they were when this was released. Their present bodies: db/functions/.

-- migrate:up
select set_config('search_path', format('%I, pg_temp', current_schema()), true),
       set_config('role', role_name('owner'), true);

create or replace function base_kind(p_kind text) returns text
language sql immutable parallel safe
return case p_kind
    when 'payment_reversal' then 'payment'
    when 'refund_reversal' then 'refund'
    when 'chargeback_reversal' then 'chargeback'
end;
comment on function base_kind(text) is 'The kind that a reversal undoes; null for the three kinds that are no reversal.';
revoke all on function base_kind from public;

create or replace function invoice_status(p_amount bigint, p_paid bigint, p_refunded bigint, p_charged_back bigint) returns text
language sql immutable parallel safe
return case
    when p_paid - p_refunded - p_charged_back >= p_amount then 'paid'
    when p_paid <= 0 then 'sent'
    when p_charged_back > 0 then 'charged_back'
    when p_paid - p_refunded - p_charged_back <= 0 then 'refunded'
    when p_refunded > 0 then 'partially_refunded'
    else 'partially_paid'
end;
comment on function invoice_status(bigint, bigint, bigint, bigint) is
    'The status of an invoice of this amount with these sums (minor units). A function of sums, so the order of events cannot matter.';
revoke all on function invoice_status from public;

create or replace function movement_kind(p_kind text) returns text
language sql immutable parallel safe
return coalesce(base_kind(p_kind), 'payment');
comment on function movement_kind(text) is
    'The kind of the movement that an event of this kind is about: what a reversal undoes, the payment of a refund or chargeback.';
revoke all on function movement_kind from public;

create or replace function movement_reference(p_kind text, p_reference text, p_parent_reference text) returns text
language sql immutable parallel safe
return case when base_kind(p_kind) is null then p_parent_reference else p_reference end;
comment on function movement_reference(text, text, text) is
    'The reference of the movement that an event is about: a reversal carries its base''s as its own, others name their parent.';
revoke all on function movement_reference from public;

create or replace function payment_event_error(p_event payment_events) returns text
language sql stable parallel safe
return case
    when p_event.event_id is null or length(p_event.event_id) not between 1 and 255
        then 'event_id must be 1 to 255 characters'
    when p_event.amount is null or p_event.amount not between 1 and 1000000000000000
        then format('amount must be 1 to 10^15 minor units, not %s', coalesce(p_event.amount::text, 'null'))
    when p_event.kind not in ('payment', 'refund', 'chargeback', 'payment_reversal', 'refund_reversal', 'chargeback_reversal')
        then format('kind must be payment, refund, chargeback or one of these with _reversal, not %L', left(p_event.kind, 40))
    when length(p_event.currency) <> 3 or rtrim(p_event.currency, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ') <> ''
        then format('currency must be three capital letters (ISO 4217), not %L', left(p_event.currency, 40))
    when length(p_event.connection) not between 1 and 63
            or rtrim(p_event.connection, 'abcdefghijklmnopqrstuvwxyz0123456789_-') <> ''
        then format('connection must be 1 to 63 of a-z, 0-9, _ and -, not %L', left(p_event.connection, 80))
    when p_event.connection = 'operator' then 'connection operator is that of void_payment(); name another'
    when length(p_event.reference) not between 1 and 255 then 'reference must be 1 to 255 characters'
    when length(p_event.parent_reference) not between 1 and 255 then 'parent_reference must be 1 to 255 characters'
    when length(p_event.invoice_reference) not between 1 and 255 then 'invoice_reference must be 1 to 255 characters'
    when right(p_event.kind, 9) = '_reversal' and num_nonnulls(p_event.reference, p_event.reverses) = 0
        then format('reference must name the movement that this %s undoes', p_event.kind)
    when p_event.kind = 'payment' and num_nonnulls(p_event.invoice_id, p_event.invoice_reference) = 0
        then 'invoice_id or invoice_reference must name the invoice of a payment'
    when p_event.kind in ('refund', 'chargeback')
            and num_nonnulls(p_event.invoice_id, p_event.invoice_reference, p_event.parent_reference) = 0
        then 'invoice_id, invoice_reference or parent_reference must name the invoice'
end;
comment on function payment_event_error(payment_events) is
    'What is wrong with an event''s own fields, naming the field; null when nothing is.';
revoke all on function payment_event_error from public;

create or replace function posting_phase(p_kind text) returns integer
language sql immutable parallel safe
return case when p_kind = 'payment' then 1 when p_kind in ('refund', 'chargeback') then 2 else 3 end;
comment on function posting_phase(text) is
    'Payments post before what may refer to them, reversals last. One order for all: it also keeps postings from deadlocking.';
revoke all on function posting_phase from public;

create or replace function apply_batch(p_events payment_events[], p_stored boolean, p_park boolean, p_wait boolean)
returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_events payment_events[] := p_events;
    v_invoice_ids bigint[];
    v_states text[];
    v_near_limit boolean;
    v_known boolean;
    v_parked bigint[] := '{}';
    v_outcomes payment_event_outcome[] := '{}';
begin
    -- Here and in what is called from here arrays keep the input's order without being sorted: unnest() gives it, and the
    -- nested loops keep it that every function for use from outside pins (enable_hashjoin = off and so on).
    select l.* into v_invoice_ids, v_states, v_near_limit from lock_invoices(p_events, p_wait) l;
    if v_near_limit and cardinality(p_events) > 1 then
        for v_position in 1 .. cardinality(p_events) loop
            v_outcomes := v_outcomes || apply_batch(p_events[v_position:v_position], p_stored, p_park, p_wait);
        end loop;
        return v_outcomes;
    end if;
    if not p_stored then
        if not p_park and 'waiting' = any(v_states) then
            select f.* into v_invoice_ids, v_states from foresee_currency_mismatches(p_events, v_invoice_ids, v_states) f;
        end if;
        select s.* into v_states, v_events, v_known from store_payment_events(p_events, p_park, true, v_invoice_ids, v_states) s;
    end if;
    if v_known then    -- before what they wait for is posted here, and releases them
        v_parked := array(select w.id from unnest(v_events) e
                          cross join lateral (select w.id from parked_events w where w.id = e.id offset 0) w);
    end if;
    select p.* into v_invoice_ids, v_states from post_payments(v_events, v_invoice_ids, v_states) p;
    if 'applied' = all(v_states) and (p_stored or not v_known) then
        return array(select row(e.id, v_invoice_ids[e.ordinality], 'applied', null)::payment_event_outcome
                     from unnest(v_events) with ordinality e);
    end if;
    -- It moves what it has stored itself, or holds in the queue. Where another event waits is for the worker to change.
    v_outcomes := set_events_aside(v_events, v_invoice_ids, v_states, array(select e.id from unnest(p_events) e where e.id is not null), v_parked);
    if v_known then
        perform leave_waiting(v_outcomes, p_claimed => false);
    end if;
    return v_outcomes;
end
$$;
comment on function apply_batch(payment_events[], boolean, boolean, boolean) is
    'The one way money moves: locks the invoices, stores the events (unless they are stored), posts them, and sets aside what cannot be posted. One outcome for each, in input order.';
revoke all on function apply_batch from public;

create or replace function apply_isolated(p_events payment_events[], p_stored boolean, p_park boolean, p_wait boolean)
returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_events payment_events[] := p_events;
    v_order bigint[];
    v_outcomes payment_event_outcome[] := '{}';
    v_outcome payment_event_outcome;
    v_from integer := 1;
    v_to integer := cardinality(p_events);
    v_ends integer[] := array[v_to];
    v_blocks integer := 0;
begin
    -- Halve what raises until the event that raises stands alone; v_ends is the stack of what is left.
    while v_from <= cardinality(p_events) loop
        v_to := v_ends[1];
        v_blocks := v_blocks + 1;
        if v_blocks > 60 then    -- each block is a subtransaction; beyond 64 they slow down every snapshot
            v_outcomes := v_outcomes || array(
                select row(case when p_stored then e.id end, null, 'busy', 'left for the next call: too many events of this one raised')::payment_event_outcome
                from unnest(v_events[v_from:]) e);
            exit;
        end if;
        begin
            v_outcomes := v_outcomes || apply_batch(v_events[v_from:v_to], p_stored, p_park, p_wait);
            set constraints all immediate;    -- deferred constraint triggers raise here, where it can be told which event it was
            v_from := v_to + 1;
            v_ends := v_ends[2:];
        exception when assert_failure or others then    -- others alone leaves out a failed ASSERT
            if left(sqlstate, 2) in ('25', '40', '53', '57', '58') or sqlstate = '55P03' then
                raise;    -- not the event's fault: a deadlock, a lock or statement time-out, a full disk, a server that has become a standby
            end if;
            v_outcomes := v_outcomes[1:v_from - 1];
            if v_from = v_to then
                v_outcome := row(case when p_stored then v_events[v_from].id end, null, 'failed',
                                 format('%s (SQLSTATE %s)', sqlerrm, sqlstate))::payment_event_outcome;
                if p_park and not p_stored then
                    v_outcome := queue_failed_event(v_events[v_from], v_outcome);
                end if;
                v_outcomes := v_outcomes || v_outcome;
                v_from := v_to + 1;
                v_ends := v_ends[2:];
            else
                v_ends := (v_from + v_to - 1) / 2 || v_ends;
                if v_order is null then
                    -- The parts keep to the fixed orders of invoices and events as the whole did. Of movements they cannot too:
                    -- two such batches over the same ones may meet, and one of them is told so (40P01).
                    if p_wait then
                        perform lock_invoices(v_events, true);
                    end if;
                    v_order := array(select e.ordinality from unnest(v_events) with ordinality e
                                     order by e.connection, e.event_id, e.ordinality);
                    v_events := array(select p_events[o.position] from unnest(v_order) with ordinality o(position, place) order by o.place);
                end if;
            end if;
        end;
    end loop;
    if v_order is null then
        return v_outcomes;
    end if;
    return array(select v_outcomes[o.place] from unnest(v_order) with ordinality o(position, place) order by o.position);
end
$$;
comment on function apply_isolated(payment_events[], boolean, boolean, boolean) is
    'apply_batch(), where an event whose application raises (a trigger of yours, at once or deferred) fails alone. A batch in which one raises is applied in the order of event ids.';
revoke all on function apply_isolated from public;

create or replace function apply_payment_event(
    p_event_id text, p_invoice_id bigint, p_amount bigint, p_kind text default 'payment', p_currency text default null,
    p_connection text default 'direct', p_reference text default null, p_parent_reference text default null,
    p_invoice_reference text default null, p_occurred_at timestamptz default null,
    p_body bytea default null, p_content_type text default null, p_park boolean default false
) returns payment_event_result
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        array[p_event_id], array[p_invoice_id], array[p_amount], array[p_kind], array[p_currency], array[p_connection], array[p_reference],
        array[p_parent_reference], array[p_invoice_reference], array[p_occurred_at], null, array[p_body]);
    v_outcomes payment_event_outcome[] := apply_batch(v_events, p_stored => false, p_park => p_park, p_wait => true);
begin
    perform raise_rejected_event(v_events[1], v_outcomes[1]);
    if p_body is not null then
        perform store_deliveries(v_events, v_outcomes, array[p_body], array[p_content_type], null);
    end if;
    return payment_event_results(v_events, v_outcomes);
end
$$;
comment on function apply_payment_event is
    'Applies one payment event now, exactly once: select * from apply_payment_event(''event_12345'', 1, 5000). p_amount in minor units of p_currency (default: the invoice''s). '
    'Outcome applied, duplicate (posted before), conflict (other content under the same id or movement: a dead letter), parked (waits for the movement it is about) or dead. '
    'Name the invoice by p_invoice_id, else by p_invoice_reference; a refund or chargeback may name its payment alone (p_parent_reference), a reversal its base (p_reference). '
    'Raises PW001 unknown invoice, PW002 invalid field, PW003 currency mismatch, PW004 amount out of range, and then stores nothing; with p_park it stores and returns those.';
revoke all on function apply_payment_event from public;
select grant_to('server', 'execute on function apply_payment_event');

create or replace function apply_payment_events(
    p_event_ids text[], p_invoice_ids bigint[] default null, p_amounts bigint[] default null, p_kinds text[] default null,
    p_currencies text[] default null, p_connections text[] default null, p_references text[] default null,
    p_parent_references text[] default null, p_invoice_references text[] default null, p_occurred_at timestamptz[] default null,
    p_bodies bytea[] default null, p_content_types text[] default null, p_deliveries integer[] default null,
    p_park boolean default false, p_wait boolean default true
) returns setof payment_event_result
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references,
        p_parent_references, p_invoice_references, p_occurred_at, p_deliveries, p_bodies);
    v_outcomes payment_event_outcome[];
begin
    v_outcomes := apply_isolated(v_events, p_stored => false, p_park => p_park, p_wait => p_wait);
    if p_bodies is not null then
        perform store_deliveries(v_events, v_outcomes, p_bodies, p_content_types, p_deliveries);
    end if;
    return query select r.* from payment_event_results(v_events, v_outcomes) r;
end
$$;
comment on function apply_payment_events is
    'Applies a batch of events now: one row for each, in input order. It leaves the books that single calls in that order would (where a trigger of yours raises, in the order of their ids). Arrays run in parallel, a missing one takes its defaults (see apply_payment_event). A bad event never spoils the others: unknown_invoice, currency_mismatch, amount_out_of_range, invalid and failed (a trigger of yours raised) store nothing. '
    'With p_park whatever is valid is stored: it waits for its invoice, is retried, or becomes a dead letter. Without p_wait an event whose invoice is locked comes back busy, nothing stored. '
    'p_bodies are the requests they came in; p_deliveries says in which, by position. Deferred constraints of the transaction are checked at once.';
revoke all on function apply_payment_events from public;
select grant_to('server', 'execute on function apply_payment_events');

create or replace function as_invoice_id(p_text text) returns bigint
language plpgsql immutable set search_path from current
as $$
begin
    return case when p_text ~ '^-?[0-9]{1,19}$' then
               case when p_text::numeric between -9223372036854775808 and 9223372036854775807 then p_text::bigint end end;
end
$$;
comment on function as_invoice_id(text) is 'The invoices.id that a text is; null where it is none.';
revoke all on function as_invoice_id from public;

create or replace function await_standby() returns void
language plpgsql set search_path from current
as $$
begin
    if current_setting('synchronous_standby_names') <> '' then
        perform pg_logical_emit_message(true, 'payment_webhooks', '');
    end if;
end
$$;
comment on function await_standby() is
    'Makes the commit of a transaction that found everything known wait for synchronous standbys, as if it wrote: whoever wrote it may have been cut off while waiting for them.';
revoke all on function await_standby from public;

create or replace function bury_payment_event(p_id bigint, p_reason text, p_detail text, p_attempts integer default 0) returns void
language plpgsql set search_path from current
as $$
begin
    insert into dead_letters (payment_event_id, delivery_id, connection, event_id, reason, detail, attempts)
    select e.id, e.delivery_id, e.connection, e.event_id, p_reason, p_detail, p_attempts
    from payment_events e
    where e.id = p_id
    on conflict do nothing;
    if not found and (select d.id from dead_letters d where d.payment_event_id = p_id and (d.resolution is null or d.resolution = 'dismissed')) is null then
        perform raise_kept_back('dead_letters');
    end if;
end
$$;
comment on function bury_payment_event(bigint, text, text, integer) is 'Makes a dead letter of a stored event.';
revoke all on function bury_payment_event from public;

create or replace function claim_payment_events(p_batch_size integer default 500, p_after bigint default 0, p_retries boolean default null)
returns bigint[]
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off set enable_bitmapscan = off
as $$
declare
    v_ids bigint[] := '{}';
begin
    if p_retries is not true then
        v_ids := array(
            select q.id from payment_queue q
            where q.id > p_after and q.attempts = 0 and q.next_attempt_at <= now()
            order by q.id
            limit p_batch_size for update skip locked);
    end if;
    -- What has failed before is claimed apart: should it take the whole transaction down, no fresh event goes with it.
    if v_ids = '{}' and p_retries is not false then
        v_ids := array(
            select q.id from payment_queue q
            where q.attempts > 0 and q.next_attempt_at <= now()
            order by q.next_attempt_at
            limit p_batch_size for update skip locked);
    end if;
    return v_ids;
end
$$;
comment on function claim_payment_events(integer, bigint, boolean) is
    'Locks up to p_batch_size due events of the queue that nobody else has locked, and returns their ids; the claim ends with the transaction. Fresh events with an id above p_after, else (or only, with p_retries) events that failed before.';
revoke all on function claim_payment_events from public;
select grant_to('listener', 'execute on function claim_payment_events');

create or replace function claim_unfetched_delivery(
    p_connection text,
    out letter_id bigint, out body bytea, out content_type text
)
language plpgsql security definer set search_path from current
as $$
begin
    with claimed as (
        update dead_letters d set attempts = d.attempts + 1
        where d.id = (
            select l.id from dead_letters l
            where l.reason = 'not_fetched' and l.resolution is null and l.connection = p_connection
              and l.attempts < 16 and l.died_at + interval '5 s' * 2 ^ l.attempts <= now()
            order by l.id limit 1 for update skip locked)
        returning d.id, d.delivery_id
    )
    select c.id, b.body, b.content_type into letter_id, body, content_type
    from claimed c join deliveries b on b.id = c.delivery_id;
end
$$;
comment on function claim_unfetched_delivery(text) is
    'The oldest body of a connection for which the provider''s API is to be asked again: 5 s, 10 s, 20 s and so on after it came, the last time after 45 hours; later a person rereads it. Counts the attempt; no row is due: nulls.';
revoke all on function claim_unfetched_delivery from public;
select grant_to('server', 'execute on function claim_unfetched_delivery');

create or replace function close_fetched_delivery(p_letter_id bigint) returns void
language plpgsql security definer set search_path from current
as $$
begin
    if exists (select from dead_letters d where d.id = p_letter_id and d.reason = 'not_fetched' and d.resolution is null) then
        perform resolve_dead_letter(p_letter_id, 'dismissed', null, 'the provider''s API has told since');
    end if;
end
$$;
comment on function close_fetched_delivery(bigint) is
    'Closes what claim_unfetched_delivery() gave, once all that it reports is stored. A letter of another reason, or one that a person has closed, stays as it is.';
revoke all on function close_fetched_delivery from public;
select grant_to('server', 'execute on function close_fetched_delivery');

create or replace function close_queue_gate() returns boolean
language plpgsql security definer set search_path from current set lock_timeout = '10ms'
as $$
begin
    -- Waits out the inserters in flight; newcomers meet the waiter and notify. No longer than this: a blocked backend hears no NOTIFY.
    perform pg_advisory_lock('payment_queue'::regclass::oid::integer, 1);
    return true;
exception when lock_not_available then
    return false;
end
$$;
comment on function close_queue_gate() is
    'For the listener on watch, before it sleeps: from here on every insert into the queue notifies. When it returns true, look at the queue once more, in a statement of its own, then sleep; awake, open_queue_gate(). False: a long transaction holds the gate; do not sleep, look again soon.';
revoke all on function close_queue_gate from public;
select grant_to('listener', 'execute on function close_queue_gate');

create or replace function dismiss_dead_letter(p_id bigint, p_note text default null, p_actor text default null) returns void
language plpgsql security definer set search_path from current
as $$
begin
    perform resolve_dead_letter(p_id, 'dismissed', p_actor, p_note);
end
$$;
comment on function dismiss_dead_letter(bigint, text, text) is
    'Closes a dead letter that needs nothing more; the same report does not open it again. Raises PW008.';
revoke all on function dismiss_dead_letter from public;
select grant_to('operator', 'execute on function dismiss_dead_letter');

create or replace function dismiss_dead_letters(p_reason text, p_limit integer default 1000, p_note text default null, p_actor text default null)
returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_ids bigint[] := array(
        select d.id from dead_letters d
        where d.resolution is null and d.reason = p_reason
        order by d.id limit p_limit for update skip locked);
begin
    perform dismiss_dead_letter(v.id, p_note, p_actor) from unnest(v_ids) v(id);
    return cardinality(v_ids);
end
$$;
comment on function dismiss_dead_letters(text, integer, text, text) is
    'Dismisses up to p_limit open dead letters of a reason, oldest first, and says how many: call it until it returns 0.';
revoke all on function dismiss_dead_letters from public;
select grant_to('operator', 'execute on function dismiss_dead_letters');

create or replace function enqueue_batch(p_events payment_events[], p_invoice_ids bigint[], p_park boolean) returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_found bigint[] := case when num_nonnulls(variadic p_invoice_ids) = cardinality(p_events) then null    -- each names its own
                             else find_invoices(p_events) end;
    v_invoice_ids bigint[];
    v_states text[];
    v_events payment_events[];
    v_known boolean;
    v_queued integer;
    v_outcomes payment_event_outcome[];
begin
    select array_agg(n.invoice_id),
           array_agg(case
               when e.id is null then 'invalid'
               when p_park or coalesce(n.invoice_id::text, e.invoice_reference) is null then 'ready'
               when i.id is null then 'unknown_invoice'
               when e.currency <> i.currency then 'currency_mismatch'
               else 'ready'
           end)
    into v_invoice_ids, v_states
    from unnest(p_events) with ordinality e
    cross join lateral (select coalesce(e.invoice_id, v_found[e.ordinality])) n(invoice_id)
    left join lateral (select * from invoices i where not p_park and i.id = n.invoice_id offset 0) i on true;

    select s.* into v_states, v_events, v_known from store_payment_events(p_events, false, false, v_invoice_ids, v_states) s;
    insert into payment_queue (id)
    select e.id from unnest(p_events) with ordinality e
    where v_states[e.ordinality] = 'ready' and v_events[e.ordinality].id = e.id;
    get diagnostics v_queued = row_count;
    if v_queued < (case when v_known then (select count(*) from unnest(p_events) with ordinality e
                                           where v_states[e.ordinality] = 'ready' and v_events[e.ordinality].id = e.id)
                        else cardinality(p_events) end) then
        perform raise_kept_back('payment_queue');
    end if;

    if not v_known then
        return array(select row(e.id, v_invoice_ids[e.ordinality], 'queued', null)::payment_event_outcome
                     from unnest(p_events) with ordinality e);
    end if;
    v_states := array(select case
        when s.state not in ('ready', 'queued')    -- a known event in another currency waits where it is, for the worker to bury
            and not (s.state = 'currency_mismatch' and v_events[s.position].id <> p_events[s.position].id) then s.state
        when v_events[s.position].id = p_events[s.position].id then 'queued'
        when (select w.id from parked_events w where w.id = v_events[s.position].id) is not null then 'parked'
        else 'duplicate' end
        from unnest(v_states) with ordinality s(state, position) order by s.position);
    v_outcomes := set_events_aside(v_events, v_invoice_ids, v_states, '{}', '{}');
    for v_position in 1 .. cardinality(v_states) loop
        if v_states[v_position] = 'repeated' and v_outcomes[v_position].outcome = 'queued' then
            v_outcomes[v_position].outcome := 'duplicate';
        end if;
    end loop;
    return v_outcomes;
end
$$;
comment on function enqueue_batch(payment_events[], bigint[], boolean) is 'Stores events and their queue rows. One outcome for each, in input order.';
revoke all on function enqueue_batch from public;

create or replace function enqueue_payment_event(
    p_event_id text, p_invoice_id bigint, p_amount bigint, p_kind text default 'payment', p_currency text default null,
    p_connection text default 'direct', p_reference text default null, p_parent_reference text default null,
    p_invoice_reference text default null, p_occurred_at timestamptz default null,
    p_body bytea default null, p_content_type text default null, p_park boolean default false
) returns payment_event_receipt
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        array[p_event_id], array[p_invoice_id], array[p_amount], array[p_kind], array[p_currency], array[p_connection], array[p_reference],
        array[p_parent_reference], array[p_invoice_reference], array[p_occurred_at], null, array[p_body]);
    v_outcomes payment_event_outcome[] := enqueue_batch(v_events, array[p_invoice_id], p_park);
begin
    perform raise_rejected_event(v_events[1], v_outcomes[1]);
    if p_body is not null then
        perform store_deliveries(v_events, v_outcomes, array[p_body], array[p_content_type], null);
    end if;
    return row(p_event_id, v_outcomes[1].outcome, v_outcomes[1].invoice_id, v_outcomes[1].detail)::payment_event_receipt;
end
$$;
comment on function enqueue_payment_event is
    'Stores one payment event and queues it for process_payment_queue(). Outcome queued, duplicate (queued or posted before), conflict, parked or dead. Parameters and errors as apply_payment_event().';
revoke all on function enqueue_payment_event from public;
select grant_to('server', 'execute on function enqueue_payment_event');

create or replace function enqueue_payment_events(
    p_event_ids text[], p_invoice_ids bigint[] default null, p_amounts bigint[] default null, p_kinds text[] default null,
    p_currencies text[] default null, p_connections text[] default null, p_references text[] default null,
    p_parent_references text[] default null, p_invoice_references text[] default null, p_occurred_at timestamptz[] default null,
    p_bodies bytea[] default null, p_content_types text[] default null, p_deliveries integer[] default null,
    p_park boolean default false
) returns setof payment_event_receipt
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_events payment_events[] := new_payment_events(
        p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references,
        p_parent_references, p_invoice_references, p_occurred_at, p_deliveries, p_bodies);
    v_outcomes payment_event_outcome[] := enqueue_batch(v_events, p_invoice_ids, p_park);
begin
    if p_bodies is not null then
        perform store_deliveries(v_events, v_outcomes, p_bodies, p_content_types, p_deliveries);
    end if;
    return query
    select e.event_id, o.outcome, o.invoice_id, o.detail
    from unnest(v_events) with ordinality e, lateral (select (v_outcomes[e.ordinality]).*) o;
end
$$;
comment on function enqueue_payment_events is
    'Stores a batch of events and queues them for process_payment_queue(); one row for each, in input order: queued, duplicate (queued or posted before), parked, dead, conflict. Parameters as apply_payment_events(). '
    'Without p_park an event that names no known invoice, or another currency, is refused here (unknown_invoice, currency_mismatch; nothing stored); with it, what is wrong shows when it is processed.';
revoke all on function enqueue_payment_events from public;
select grant_to('server', 'execute on function enqueue_payment_events');

create or replace function expire_parked_events(p_park_days integer, out released integer, out dead integer)
language plpgsql set search_path from current
as $$
declare
    v_expired bigint[] := array(
        select l.id from parked_events l
        where l.parked_at < now() - make_interval(days => p_park_days)
        limit 500 for update skip locked);
begin
    released := release_parked_events(find_released_events(v_expired));
    with expired as (
        delete from parked_events w where w.id = any(v_expired) returning w.id
    )
    select array_agg(x.id) into v_expired from expired x;
    perform bury_payment_event(x.id, 'park_expired', format('what it waits for did not come in %s days', p_park_days))
    from unnest(v_expired) x(id);
    -- No dead letter for a reference: it carries no money, and an event that waits for it expires by itself.
    delete from parked_references w
    where (w.connection, w.reference) in (
        select l.connection, l.reference from parked_references l
        where l.parked_at < now() - make_interval(days => p_park_days)
          and not exists (select from invoices i where i.id = l.invoice_id)
          and not exists (select from invoice_references r where r.connection = l.connection and r.reference = l.invoice_reference)
        limit 500 for update skip locked);
    dead := coalesce(cardinality(v_expired), 0);
end
$$;
comment on function expire_parked_events(integer) is 'Makes dead letters of up to 500 events that have been parked for longer; releases those for which what they wait for has come. Drops up to 500 parked references as old.';
revoke all on function expire_parked_events from public;

create or replace function fail_payment_event(p_id bigint, p_error text, p_max_attempts integer default 10) returns boolean
language plpgsql security definer set search_path from current
as $$
declare
    v_attempts integer;
    v_invoice_ids bigint[];
begin
    update payment_queue q
    set attempts = q.attempts + 1,
        next_attempt_at = now() + least(power(2, least(q.attempts, 12)), 3600) * (0.5 + random()) * interval '1 s',
        last_error = left(p_error, 2000)
    where q.id = p_id
    returning q.attempts into v_attempts;
    if v_attempts < p_max_attempts or not found then
        return false;
    end if;
    -- Whoever applies it meanwhile holds its invoice: then the next attempt sees what came of it.
    v_invoice_ids := find_invoices(array(select e from payment_events e where e.id = p_id));
    if (select i.id from invoices i where i.id = any(v_invoice_ids) for no key update skip locked) is null
            and exists (select from invoices i where i.id = any(v_invoice_ids)) then
        return false;
    end if;
    if (select p.id from payments p where p.id = p_id) is not null or (select r.id from payment_reports r where r.id = p_id) is not null then
        delete from payment_queue q where q.id = p_id;
        return false;
    end if;
    perform bury_payment_event(p_id, 'attempts_exhausted', left(p_error, 2000), v_attempts);
    delete from payment_queue q where q.id = p_id;
    return true;
end
$$;
comment on function fail_payment_event(bigint, text, integer) is
    'Counts a failed attempt at a queued event and schedules the next one: 1 s, 2 s, 4 s … 1 h, each half to one and a half of that. At p_max_attempts it becomes a dead letter, and this returns true, unless it was applied meanwhile.';
revoke all on function fail_payment_event from public;
select grant_to('listener', 'execute on function fail_payment_event');

create or replace function find_invoice(p_connection text, p_invoice_id bigint, p_invoice_reference text) returns bigint
language plpgsql stable set search_path from current
as $$
begin
    return case when p_invoice_id is not null
        then (select i.id from invoices i where i.id = p_invoice_id)
        else (select r.invoice_id from invoice_references r where r.connection = p_connection and r.reference = p_invoice_reference)
    end;
end
$$;
comment on function find_invoice(text, bigint, text) is 'The invoice of this id, else of this reference of the connection; null where there is none (yet).';
revoke all on function find_invoice from public;

create or replace function find_invoices(p_events payment_events[]) returns bigint[]
language plpgsql stable set search_path from current
as $$
begin
    return array(
        select coalesce(
            (select a.invoice_id from reassigned_events a where a.id = e.id),
            -- What an operator gave to another invoice, posted or about to be, takes along what is about it and names the old one.
            case when e.kind <> 'payment' and num_nonnulls(e.invoice_id, e.invoice_reference) > 0 then coalesce(
                (select p.invoice_id from payments p join payment_events b on b.id = p.id
                 where p.connection = e.connection and p.kind = movement_kind(e.kind)
                   and p.reference = movement_reference(e.kind, e.reference, e.parent_reference)
                   and (b.invoice_id, b.invoice_reference) is not distinct from (e.invoice_id, e.invoice_reference)),
                (select a.invoice_id from reassigned_events a join payment_queue q on q.id = a.id join payment_events b on b.id = a.id
                 where b.connection = e.connection and b.kind = movement_kind(e.kind)
                   and b.reference = movement_reference(e.kind, e.reference, e.parent_reference)
                   and (b.invoice_id, b.invoice_reference) is not distinct from (e.invoice_id, e.invoice_reference)
                 order by a.id limit 1)) end,
            e.invoice_id,
            case when e.invoice_reference is not null
                then (select r.invoice_id from invoice_references r where r.connection = e.connection and r.reference = e.invoice_reference)
                else (select m.invoice_id from payments m where m.id = coalesce(e.reverses, (
                    select p.id from payments p
                    where p.connection = e.connection and p.kind = movement_kind(e.kind)
                      and p.reference = movement_reference(e.kind, e.reference, e.parent_reference))))
            end)
        from unnest(p_events) e);
end
$$;
comment on function find_invoices(payment_events[]) is
    'The invoice of each event: the one an operator gave it to, or gave what it is about to, else the one it names, else that of the posted movement it is about; null where there is none (yet).';
revoke all on function find_invoices from public;

create or replace function find_named_invoices(p_text text) returns setof bigint
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select r.invoice_id from invoice_references r where r.reference = p_text
    union
    select i.id from invoices i where i.id = as_invoice_id(p_text);
end
$$;
comment on function find_named_invoices(text) is 'The ids of the invoices that a person means: by their id, or by a reference of any connection.';
revoke all on function find_named_invoices from public;
select grant_to('operator', 'execute on function find_named_invoices');
select grant_to('reader', 'execute on function find_named_invoices');

create or replace function find_payment_events(p_text text) returns setof bigint
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select f.id from (
        select e.id from payment_events e where e.event_id = p_text
        union
        select p.id from payments p where p.reference = p_text
        union
        select w.id from parked_events w where w.invoice_reference = p_text
        union
        select w.id from parked_events w where w.movement_reference = p_text
        union
        select w.id from parked_events w where w.invoice_id = as_invoice_id(p_text)
        union
        select e.id from (    -- no index leads to what is not posted
            (select q.id from payment_queue q order by q.id limit 10000)
            union all (select w.id from parked_events w order by w.id limit 10000)
            union all (select d.payment_event_id from dead_letters d
                       where d.payment_event_id is not null and (d.resolution is null or d.resolution = 'dismissed') order by d.id desc limit 10000)) n
        cross join lateral (select k.id, k.reference from payment_events k where k.id = n.id offset 0) e
        where e.reference = p_text
    ) f order by f.id limit 100;
end
$$;
comment on function find_payment_events(text) is
    'The ids of up to 100 events by what a person has at hand: an event id, its reference (of what is not posted, among the first 10,000 that are queued, the first that are parked and the last that are dead), or the invoice, invoice reference or movement that a parked event waits for. select * from payment_event_states where id in (select find_payment_events(…));';
revoke all on function find_payment_events from public;
select grant_to('operator', 'execute on function find_payment_events');
select grant_to('reader', 'execute on function find_payment_events');

create or replace function find_released_events(p_ids bigint[]) returns bigint[]
language plpgsql stable set search_path from current
as $$
begin
    return array(
        select w.id from parked_events w
        where w.id = any(p_ids)
          and case
                  when w.invoice_id is not null then (select i.id from invoices i where i.id = w.invoice_id)
                  when w.invoice_reference is not null then (
                      select r.invoice_id from invoice_references r
                      where r.connection = w.connection and r.reference = w.invoice_reference)
                  else (
                      select p.id from payments p
                      where p.connection = w.connection and p.kind = w.movement_kind and p.reference = w.movement_reference)
              end is not null);
end
$$;
comment on function find_released_events(bigint[]) is
    'Those of these parked events for which what they wait for exists by now. Every poll asks: the triggers are speed, this is the guarantee.';
revoke all on function find_released_events from public;

create or replace function find_released_references() returns invoice_references[]
language plpgsql stable set search_path from current
as $$
begin
    return array(
        select row(w.connection, w.reference, coalesce(i.id, r.invoice_id), now())::invoice_references
        from parked_references w
        left join lateral (select i.id from invoices i where i.id = w.invoice_id offset 0) i on true
        left join lateral (select r.invoice_id from invoice_references r
                           where r.connection = w.connection and r.reference = w.invoice_reference offset 0) r on true
        where coalesce(i.id, r.invoice_id) is not null
        order by random()    -- or those for which a trigger of yours raises would keep the others back
        limit 1000);
end
$$;
comment on function find_released_references() is
    'Up to 1,000 parked references whose invoice, or whose other reference, exists by now. Every poll asks: the triggers are speed, this is the guarantee.';
revoke all on function find_released_references from public;

create or replace function follow_invoice_amount() returns trigger
language plpgsql security definer set search_path from current
as $$
begin
    new.status := invoice_status(new.amount, new.amount_paid, new.amount_refunded, new.amount_charged_back);
    new.updated_at := now();
    return new;
end
$$;
comment on function follow_invoice_amount() is 'Trigger of invoices: a changed amount changes the status.';
revoke all on function follow_invoice_amount from public;

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

create or replace function freeze_invoice_currency() returns trigger
language plpgsql security definer set search_path from current
as $$
begin
    if exists (select from payments p where p.invoice_id = old.id) then
        raise exception 'the currency of invoice % is frozen: payments have posted in %', old.id, old.currency
            using errcode = 'PW007',
                  detail = format('invoice %s, from %s to %s', old.id, old.currency, new.currency),
                  hint = 'Issue another invoice in the new currency.';
    end if;
    new.updated_at := now();
    return new;
end
$$;
comment on function freeze_invoice_currency() is 'Trigger of invoices: no change of currency once an event has posted.';
revoke all on function freeze_invoice_currency from public;

create or replace function guard_invoice_sums() returns trigger
language plpgsql set search_path from current
as $$
begin
    -- Inside the functions, all SECURITY DEFINER, this runs as the owner, as whom nobody logs in.
    if tg_op = 'INSERT' or current_user <> (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = tg_relid) then
        raise exception 'the sums of an invoice cannot be set by hand'
            using errcode = 'PW006',
                  detail = 'amount_paid, amount_refunded and amount_charged_back are what the ledger adds up to, 0 at first.',
                  hint = 'Post an event: select * from apply_payment_event(''opening-balance-1'', 1, 5000, p_connection => ''opening'').';
    end if;
    return null;
end
$$;
comment on function guard_invoice_sums() is 'Trigger of invoices: only the functions change the sums.';
revoke all on function guard_invoice_sums from public;

create or replace function import_dead_letter(
    p_connection text, p_reason text, p_detail text, p_body bytea, p_content_type text default null, p_event_id text default null,
    p_note text default null, p_actor text default null
) returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_id bigint := store_dead_letter(p_connection, p_reason, p_detail, p_body, p_content_type, p_event_id);
begin
    if v_id is not null then
        perform record_operator_action(p_actor, 'imported', p_note, null, v_id);
    end if;
    return v_id;
end
$$;
comment on function import_dead_letter(text, text, text, bytea, text, text, text, text) is
    'store_dead_letter() for an operator, with a trace in operator_actions (imported). Null when the same letter is kept already.';
revoke all on function import_dead_letter from public;
select grant_to('operator', 'execute on function import_dead_letter');

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

create or replace function import_payment_events(
    p_event_ids text[], p_invoice_ids bigint[] default null, p_amounts bigint[] default null, p_kinds text[] default null,
    p_currencies text[] default null, p_connections text[] default null, p_references text[] default null,
    p_parent_references text[] default null, p_invoice_references text[] default null, p_occurred_at timestamptz[] default null,
    p_bodies bytea[] default null, p_content_types text[] default null, p_deliveries integer[] default null,
    p_park boolean default false, p_note text default null, p_actor text default null
) returns setof payment_event_receipt
language plpgsql security definer set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_receipts payment_event_receipt[] := array(
        select r from enqueue_payment_events(
            p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references, p_parent_references,
            p_invoice_references, p_occurred_at, p_bodies, p_content_types, p_deliveries, p_park) r);
begin
    -- What is known already is no doing of the operator's: queued is what was stored just now, a conflict's letter may be older.
    perform record_operator_action(p_actor, 'imported', p_note, n.payment_event_id, n.dead_letter_id)
    from (
        select distinct e.id as payment_event_id, d.id as dead_letter_id
        from rows from (unnest(v_receipts), unnest(p_connections)) r(event_id, outcome, invoice_id, detail, connection)
        cross join lateral (select coalesce(r.connection, 'direct')) c (connection)
        left join payment_events e on r.outcome = 'queued' and e.connection = c.connection and e.event_id = r.event_id
        left join dead_letters d on r.outcome = 'conflict' and d.connection = c.connection and d.event_id = r.event_id and d.died_at = now()
        where num_nonnulls(e.id, d.id) > 0
        order by e.id, d.id
    ) n;
    return query select r.* from unnest(v_receipts) r;
end
$$;
comment on function import_payment_events is
    'enqueue_payment_events() for an operator who brings events that no webhook brought, from a provider''s export: the same parameters, outcomes and deduplication, and a trace in operator_actions (imported) of each event and dead letter that is new.';
revoke all on function import_payment_events from public;
select grant_to('operator', 'execute on function import_payment_events');

create or replace function invoice_discrepancies()
returns table (invoice_id bigint, paid bigint, ledger_paid numeric, refunded bigint, ledger_refunded numeric, charged_back bigint, ledger_charged_back numeric)
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select i.id, i.amount_paid, coalesce(l.paid, 0), i.amount_refunded, coalesce(l.refunded, 0), i.amount_charged_back, coalesce(l.charged_back, 0)
    from invoices i
    left join (
        select p.invoice_id as id,
               sum(case p.kind when 'payment' then p.amount when 'payment_reversal' then -p.amount else 0 end) as paid,
               sum(case p.kind when 'refund' then p.amount when 'refund_reversal' then -p.amount else 0 end) as refunded,
               sum(case p.kind when 'chargeback' then p.amount when 'chargeback_reversal' then -p.amount else 0 end) as charged_back
        from payments p group by p.invoice_id
    ) l on l.id = i.id
    where (i.amount_paid, i.amount_refunded, i.amount_charged_back)
        is distinct from (coalesce(l.paid, 0), coalesce(l.refunded, 0), coalesce(l.charged_back, 0));
end
$$;
comment on function invoice_discrepancies() is
    'Invoices whose sums are not what the ledger adds up to: none, unless the owner went round the functions.';
revoke all on function invoice_discrepancies from public;
select grant_to('operator', 'execute on function invoice_discrepancies');

create or replace function invoice_timeline(p_invoice_id bigint)
returns table (at timestamptz, place text, connection text, event_id text, kind text, amount bigint, balance numeric, reference text, detail text)
language plpgsql stable security definer set search_path from current
as $$
declare
    -- In a statement of its own: whatever waits is looked through once, and what is found is read by its key.
    v_waiting bigint[] := array(
        select e.id
        from (select q.id from payment_queue q
              union all select w.id from parked_events w
              union all select d.payment_event_id from dead_letters d where d.resolution is null) v
        join payment_events e on e.id = v.id
        left join reassigned_events a on a.id = e.id
        left join invoice_references n on n.connection = e.connection and n.reference = e.invoice_reference
        left join payments m on num_nonnulls(e.invoice_id, e.invoice_reference) = 0 and m.connection = e.connection
            and m.kind = movement_kind(e.kind)
            and m.reference = movement_reference(e.kind, e.reference, e.parent_reference)
        where coalesce(a.invoice_id, e.invoice_id, n.invoice_id, m.invoice_id) = p_invoice_id);
begin
    return query
    with posted as (
        select p.id, p.posted_at, case when p.kind in ('payment', 'refund_reversal', 'chargeback_reversal') then p.amount else -p.amount end as change
        from payments p
        where p.invoice_id = p_invoice_id
    ), shown as (
        select p.id, p.posted_at as shown_at, p.change, sum(p.change) over (order by p.posted_at, p.id) as total from posted p
        union all
        select r.id, e.received_at, null, null from posted p join payment_reports r on r.payment_id = p.id join payment_events e on e.id = r.id
        union all
        select e.id, e.received_at, null, null from payment_events e where e.id = any (v_waiting)
    )
    select s.shown_at, t.place, t.connection, t.event_id, t.kind, coalesce(s.change, t.amount), s.total, t.reference, t.detail
    from shown s join payment_event_states t on t.id = s.id
    where t.id = any (array(select v.id from shown v))    -- else the view is read from end to end
    order by s.shown_at, s.id;
end
$$;
comment on function invoice_timeline(bigint) is
    'Everything about one invoice in order: what posted, signed, with the running balance (net received, minor units), and what was a further report, waits or is dead, without one.';
revoke all on function invoice_timeline from public;
select grant_to('operator', 'execute on function invoice_timeline');
select grant_to('reader', 'execute on function invoice_timeline');

create or replace function leave_waiting(p_outcomes payment_event_outcome[], p_claimed boolean) returns void
language plpgsql set search_path from current
as $$
declare
    v_ids bigint[] := array(select o.id from unnest(p_outcomes) o);
    v_settled bigint[] := array(
        select o.id from unnest(v_ids) o(id)
        where coalesce((select p.id from payments p where p.id = o.id),
                       (select r.id from payment_reports r where r.id = o.id)) is not null);
    v_moved bigint[] := '{}';
begin
    if p_claimed then    -- who holds the queue's rows has just parked or buried these; for others that may change at any moment
        v_moved := array(
            select w.id from parked_events w where w.id = any(v_ids)
            union all
            select d.payment_event_id from dead_letters d
            where d.payment_event_id = any(v_ids) and (d.resolution is null or d.resolution = 'dismissed'));
    end if;
    -- Without waiting: a worker that holds the row finds the event settled and removes it.
    delete from payment_queue q
    where q.id = any(array(select l.id from payment_queue l where l.id = any(v_settled || v_moved) for update skip locked));
    delete from parked_events w
    where w.id = any(array(select l.id from parked_events l where l.id = any(v_settled) for update skip locked));
end
$$;
comment on function leave_waiting(payment_event_outcome[], boolean) is
    'Removes posted events from the queue and from the parked; with p_claimed, parked and buried ones from the queue.';
revoke all on function leave_waiting from public;

create or replace function link_invoice_reference(
    p_connection text, p_reference text, p_invoice_id bigint default null, p_invoice_reference text default null
) returns text
language plpgsql security definer set search_path from current
as $$
declare
    v_error text := case
        when p_connection is null or length(p_connection) not between 1 and 63
                or rtrim(p_connection, 'abcdefghijklmnopqrstuvwxyz0123456789_-') <> ''
            then format('connection must be 1 to 63 of a-z, 0-9, _ and -, not %L', left(p_connection, 80))
        when p_reference is null or length(p_reference) not between 1 and 255 then 'reference must be 1 to 255 characters'
        when length(p_invoice_reference) not between 1 and 255 then 'invoice_reference must be 1 to 255 characters'
        when p_invoice_reference = p_reference then 'invoice_reference must be another reference'
        when num_nonnulls(p_invoice_id, p_invoice_reference) <> 1 then 'invoice_id or invoice_reference must name the invoice, and only one of them'
    end;
    v_invoice_id bigint;
begin
    if v_error is not null then
        raise exception '%', v_error
            using errcode = 'PW002',
                  detail = format('reference %s of connection %s, invoice %s. Nothing was stored.', quote_nullable(left(p_reference, 255)),
                      quote_nullable(left(p_connection, 80)), coalesce(p_invoice_id::text, quote_nullable(left(p_invoice_reference, 255)))),
                  hint = 'Correct the field that the message names and link again.';
    end if;

    v_invoice_id := find_invoice(p_connection, p_invoice_id, p_invoice_reference);
    if v_invoice_id is null and find_invoice(p_connection, null, p_reference) is null then
        -- An invoice's id says more than a reference that is unknown itself, so it takes that one's place.
        insert into parked_references as w (connection, reference, invoice_id, invoice_reference)
        values (p_connection, p_reference, p_invoice_id, p_invoice_reference)
        on conflict (connection, reference) do update set invoice_id = excluded.invoice_id, invoice_reference = null
            where w.invoice_id is null and excluded.invoice_id is not null;
        if found then
            -- It may have come while we parked: a look with a fresh snapshot.
            v_invoice_id := find_invoice(p_connection, p_invoice_id, p_invoice_reference);
            if v_invoice_id is null then
                return 'parked';
            end if;
        end if;
    end if;

    if v_invoice_id is not null and not exists (
            select from parked_references w
            where w.connection = p_connection and w.reference = p_reference and w.invoice_id <> v_invoice_id) then
        insert into invoice_references (connection, reference, invoice_id) values (p_connection, p_reference, v_invoice_id)
        on conflict do nothing;
        if found then
            delete from parked_references w where w.connection = p_connection and w.reference = p_reference;
            return 'linked';
        end if;
    end if;

    perform await_standby();
    -- Known or parked before, perhaps by another a moment ago: a statement of its own sees that one's row.
    v_invoice_id := coalesce(v_invoice_id, p_invoice_id);
    return (
        select case when (case when r.invoice_id is not null then r.invoice_id <> v_invoice_id
                               else w.invoice_id <> v_invoice_id or w.invoice_reference <> p_invoice_reference end)
            then 'conflict' else 'duplicate' end
        from (values (p_connection, p_reference)) l (connection, reference)
        left join invoice_references r on r.connection = l.connection and r.reference = l.reference
        left join parked_references w on w.connection = l.connection and w.reference = l.reference);
end
$$;
comment on function link_invoice_reference(text, text, bigint, text) is
    'Says that a reference belongs to an invoice, named by its id or by another reference of the connection: select link_invoice_reference(''stripe'', ''pi_1'', 42), or (''stripe'', ''pi_1'', p_invoice_reference => ''in_1''). '
    'Outcome linked, duplicate (known before), parked (the invoice or the other reference is not there yet: linked when it comes) or conflict (known for another invoice, or parked for another one: nothing changes). Raises PW002 for an invalid field.';
revoke all on function link_invoice_reference from public;
select grant_to('server', 'execute on function link_invoice_reference');

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

create or replace function look_at_parked_events(
    p_after bigint default 0, p_limit integer default 10000, p_park_days integer default 30,
    out released integer, out dead integer, out last_id bigint
)
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_ids bigint[] := array(select w.id from parked_events w where w.id > p_after order by w.id limit p_limit);
begin
    released := 0;
    dead := 0;
    if p_after = 0 then
        set constraints all immediate;    -- or a deferred trigger of yours on invoice_references would undo it all
        released := link_parked_references(find_released_references());
        select look_at_parked_events.released + e.released, e.dead into released, dead from expire_parked_events(p_park_days) e;
    end if;
    released := released + release_parked_events(find_released_events(v_ids));
    last_id := case when cardinality(v_ids) = p_limit then v_ids[p_limit] end;
end
$$;
comment on function look_at_parked_events(bigint, integer, integer) is
    'Releases those of up to p_limit parked events, by id above p_after, whose invoice or movement has come. last_id: call it again with that as p_after; null: these were the last. From 0 it also links parked references and buries the events, and drops the references, that have been parked for p_park_days.';
revoke all on function look_at_parked_events from public;
select grant_to('listener', 'execute on function look_at_parked_events');

create or replace function misplaced_events() returns table (id bigint, places text[])
language plpgsql stable security definer set search_path from current
as $$
begin
    return query
    select e.id, array_remove(array_agg(p.place order by p.place), null)
    from payment_events e
    left join (
        select o.id, 'posted' as place from payments o
        union all select r.id, 'reported' from payment_reports r
        union all select q.id, 'queued' from payment_queue q
        union all select w.id, 'parked' from parked_events w
        union all select d.payment_event_id, 'dead' from dead_letters d where d.resolution is null or d.resolution = 'dismissed'
    ) p on p.id = e.id
    group by e.id
    having count(p.place) <> 1;
end
$$;
comment on function misplaced_events() is
    'The check that every event is in exactly one place: posted, reported, queued, parked or dead. No rows, or posted besides queued or parked for a moment after an event was applied ahead of the queue.';
revoke all on function misplaced_events from public;
select grant_to('operator', 'execute on function misplaced_events');

create or replace function new_payment_events(
    p_event_ids text[], p_invoice_ids bigint[], p_amounts bigint[], p_kinds text[], p_currencies text[], p_connections text[],
    p_references text[], p_parent_references text[], p_invoice_references text[], p_occurred_at timestamptz[],
    p_deliveries integer[], p_bodies bytea[]
) returns payment_events[]
language plpgsql set search_path from current
as $$
declare
    v_events payment_events[];
    v_invalid bigint[];
    v_position integer;
    v_delivery_ids bigint[] := case when p_deliveries is not null then array(    -- several events share one
        select case when p_bodies[n] is not null then nextval('deliveries_id_seq') end
        from generate_series(1, cardinality(p_bodies)) n) end;
begin
    select array_agg(n.event),
           array_agg(n.position) filter (where payment_event_error(n.event) is not null)
    into v_events, v_invalid
    from (
        select e.position, row(
            nextval('payment_events_id_seq'), now(), e.amount, e.invoice_id, null,
            case when p_deliveries is not null then v_delivery_ids[coalesce(e.delivery, e.position)]
                 when p_bodies[e.position] is not null then nextval('deliveries_id_seq') end,
            e.occurred_at, coalesce(e.connection, 'direct'), e.event_id, coalesce(e.kind, 'payment'), e.currency,
            e.invoice_reference, e.reference, e.parent_reference)::payment_events as event
        from unnest(p_event_ids, p_invoice_ids, p_amounts, p_kinds, p_currencies, p_connections, p_references,
                    p_parent_references, p_invoice_references, p_occurred_at, p_deliveries) with ordinality
            as e(event_id, invoice_id, amount, kind, currency, connection, reference,
                 parent_reference, invoice_reference, occurred_at, delivery, position)
    ) n;
    foreach v_position in array coalesce(v_invalid, '{}') loop
        v_events[v_position].id := null;
    end loop;
    return coalesce(v_events, '{}');
end
$$;
comment on function new_payment_events is
    'Events from parallel arrays, numbered in input order but not stored yet; an invalid one has no id, and payment_event_error() says why. Null elements take their defaults.';
revoke all on function new_payment_events from public;

create or replace function open_queue_gate() returns boolean
language plpgsql security definer set search_path from current
as $$
begin
    return pg_advisory_unlock('payment_queue'::regclass::oid::integer, 1);
end
$$;
comment on function open_queue_gate() is 'For the listener on watch, as soon as it is awake: inserts need not notify any more.';
revoke all on function open_queue_gate from public;
select grant_to('listener', 'execute on function open_queue_gate');

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

create or replace function post_payments(
    p_events payment_events[],
    inout p_invoice_ids bigint[], inout p_states text[]
)
language plpgsql set search_path from current
as $$
declare
    v_phase integer;
    v_bases bigint[] := '{}';
    v_posted bigint[] := '{}';
    v_now_posted bigint[];
    v_postings bigint[];
    v_ids bigint[];
    v_ready bigint[];
    v_awaited boolean := false;
    v_kept_back boolean;
begin
    foreach v_phase in array array(select distinct posting_phase(e.kind) from unnest(p_events) e order by 1) loop
        if v_phase = 3 or v_phase = 2 and 'waiting' = any(p_states) then
            -- What refers to a movement may follow it in the same batch: look again, now that the earlier phases have posted.
            v_ids := array(select e.id from unnest(p_events) e);
            v_ready := array(select case when p_states[e.ordinality] = 'ready' then e.id end from unnest(p_events) with ordinality e);
            select array_agg(coalesce(p_invoice_ids[e.ordinality], m.invoice_id) order by e.ordinality),
                   array_agg(case when base_kind(e.kind) is not null then m.id end order by e.ordinality),
                   array_agg(case
                       when p_states[e.ordinality] not in ('ready', 'waiting', 'repeated') or posting_phase(e.kind) <> v_phase
                           or p_states[e.ordinality] = 'ready' and base_kind(e.kind) is null then p_states[e.ordinality]
                       when p_states[e.ordinality] = 'repeated' and (
                           -- The first time it had to wait, and this is the first time after the movement.
                           m.id = any(v_posted) and array_position(v_ids, e.id) < array_position(v_ready, m.id)
                           and array_position(v_ids, e.id, array_position(v_ready, m.id)) = e.ordinality
                           and (p_states[array_position(v_ids, e.id)] = 'waiting'
                                or p_states[array_position(v_ids, e.id)] = 'ready' and base_kind(e.kind) is not null)
                       ) is not true then 'repeated'
                       when m.id is null or array_position(v_ready, m.id) > e.ordinality and m.id = any(v_posted) then 'waiting'
                       when p_states[e.ordinality] = 'waiting' and m.id <> all(v_posted) then 'waiting'
                       when e.currency <> i.currency then case p_states[e.ordinality] when 'repeated' then 'queued' else 'currency_mismatch' end
                       when base_kind(e.kind) is null then 'ready'
                       when m.invoice_id <> coalesce(p_invoice_ids[e.ordinality], m.invoice_id) or m.amount < e.amount then 'conflict'
                       else 'ready'
                   end order by e.ordinality)
            into p_invoice_ids, v_bases, p_states
            from unnest(p_events) with ordinality e
            left join lateral (
                select * from payments m where m.id = coalesce(e.reverses, (
                    select p.id from payments p
                    where p.connection = e.connection and p.kind = movement_kind(e.kind)
                      and p.reference = movement_reference(e.kind, e.reference, e.parent_reference)))
                offset 0) m on true
            left join lateral (select i.currency from invoices i where i.id = m.invoice_id offset 0) i on true;
        end if;

        -- Phase by phase in the order of the unique key: the third of the fixed orders, after invoices and events.
        with posted as (
            insert into payments (id, invoice_id, amount, reverses, connection, kind, reference)
            select e.id, p_invoice_ids[e.ordinality], e.amount, v_bases[e.ordinality], e.connection, e.kind, e.reference
            from unnest(p_events) with ordinality e
            where p_states[e.ordinality] = 'ready' and posting_phase(e.kind) = v_phase
            order by e.connection, e.kind, e.reference, e.ordinality
            on conflict do nothing
            returning id, invoice_id, kind, amount
        ), moved as (
            update invoices i
            set amount_paid = i.amount_paid + c.paid,
                amount_refunded = i.amount_refunded + c.refunded,
                amount_charged_back = i.amount_charged_back + c.charged_back,
                status = invoice_status(i.amount, i.amount_paid + c.paid, i.amount_refunded + c.refunded, i.amount_charged_back + c.charged_back),
                updated_at = now()
            from (
                select p.invoice_id,
                       sum(case p.kind when 'payment' then p.amount when 'payment_reversal' then -p.amount else 0 end)::bigint as paid,
                       sum(case p.kind when 'refund' then p.amount when 'refund_reversal' then -p.amount else 0 end)::bigint as refunded,
                       sum(case p.kind when 'chargeback' then p.amount when 'chargeback_reversal' then -p.amount else 0 end)::bigint as charged_back
                from posted p
                group by p.invoice_id
            ) c
            where i.id = c.invoice_id
            returning i.id
        )
        select array_agg(p.id), v_awaited or exists (select from parked_events w where w.movement_reference is not null),
               count(distinct p.invoice_id) > (select count(*) from moved)
        into v_now_posted, v_awaited, v_kept_back from posted p;
        if v_kept_back then
            perform raise_kept_back('invoices');
        end if;
        v_posted := v_posted || v_now_posted;
    end loop;

    if v_awaited then
        perform release_parked_events(array(
            select w.id from payments p
            cross join lateral (
                select w.id from parked_events w
                where w.connection = p.connection and w.movement_kind = p.kind and w.movement_reference = p.reference offset 0) w
            where p.id = any(v_posted)));
    end if;

    if cardinality(v_posted) = cardinality(p_events) then
        p_states := array_fill('applied'::text, array[cardinality(p_events)]);
        return;
    end if;
    -- In a statement of its own, so that it sees the posting that was in the way.
    select array_agg(case
            when p_states[e.ordinality] <> 'ready' then p_states[e.ordinality]
            when e.id = any(v_posted) then 'applied'
            when m.id is null then 'kept back'
            when m.id = e.id or m.amount = e.amount and m.invoice_id = p_invoice_ids[e.ordinality] then 'duplicate'
            else 'conflict'
        end order by e.ordinality),
        array_agg(m.id order by e.ordinality)
    into p_states, v_postings
    from unnest(p_events) with ordinality e
    left join lateral (
        select * from payments m where m.id = coalesce(
            (select p.id from payments p where p.id = e.id),
            (select p.id from payments p where p.connection = e.connection and p.kind = e.kind and p.reference = e.reference),
            (select p.id from payments p where p.reverses = v_bases[e.ordinality]))
        offset 0) m on true;
    if 'kept back' = any(p_states) then
        perform raise_kept_back('payments');
    end if;

    insert into payment_reports (id, payment_id)
    select e.id, v_postings[e.ordinality]
    from unnest(p_events) with ordinality e
    where p_states[e.ordinality] = 'duplicate' and v_postings[e.ordinality] <> e.id
    order by e.id
    on conflict do nothing;
end
$$;
comment on function post_payments(payment_events[], bigint[], text[]) is
    'Posts the ready events of a batch, their invoices being locked, to the ledger and the invoices. States become applied, duplicate or conflict; what waits for a movement stays waiting.';
revoke all on function post_payments from public;

create or replace function process_claimed_events(
    p_ids bigint[], p_max_attempts integer default 10,
    out claimed integer, out applied integer, out duplicates integer, out parked integer,
    out busy integer, out failed integer, out dead integer
)
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_ids bigint[] := array(select q.id from payment_queue q where q.id = any(p_ids) order by q.id for update skip locked);
    v_outcomes payment_event_outcome[];
    v_failed record;
begin
    claimed := cardinality(v_ids);
    v_outcomes := apply_isolated(
        array(select e from payment_events e where e.id = any(v_ids) order by e.id), p_stored => true, p_park => true, p_wait => false);

    select count(*) filter (where o.outcome = 'applied'), count(*) filter (where o.outcome = 'duplicate'),
           count(*) filter (where o.outcome = 'parked'), count(*) filter (where o.outcome = 'busy'),
           count(*) filter (where o.outcome = 'failed'),
           count(*) filter (where o.outcome in ('conflict', 'currency_mismatch', 'amount_out_of_range'))
    into applied, duplicates, parked, busy, failed, dead
    from unnest(v_outcomes) o;

    if applied = claimed then
        delete from payment_queue q where q.id = any(v_ids);
        return;
    end if;
    perform leave_waiting(v_outcomes, p_claimed => true);
    update payment_queue q set next_attempt_at = now() + interval '0.5 s'
    where q.id = any(array(select o.id from unnest(v_outcomes) o where o.outcome = 'busy'));
    for v_failed in select o.id, o.detail from unnest(v_outcomes) o where o.outcome = 'failed' loop
        dead := dead + fail_payment_event(v_failed.id, v_failed.detail, p_max_attempts)::integer;
    end loop;
end
$$;
comment on function process_claimed_events(bigint[], integer) is
    'Applies claimed events and takes them from the queue; what is not in it, or is claimed by another, is left out. Failed ones are retried later, until p_max_attempts makes dead letters of them; busy ones (invoice locked by another transaction) soon, and no attempt is counted.';
revoke all on function process_claimed_events from public;
select grant_to('listener', 'execute on function process_claimed_events');

create or replace function process_payment_queue(
    p_batch_size integer default 500, p_after bigint default 0, p_retries boolean default null,
    p_max_attempts integer default 10, p_park_days integer default 30,
    out claimed integer, out applied integer, out duplicates integer, out parked integer,
    out busy integer, out failed integer, out dead integer, out released integer, out last_id bigint
)
language plpgsql security definer set search_path from current
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_memoize = off
as $$
declare
    v_ids bigint[] := claim_payment_events(p_batch_size, p_after, p_retries);
begin
    select p.*, 0, v_ids[cardinality(v_ids)]
    into claimed, applied, duplicates, parked, busy, failed, dead, released, last_id
    from process_claimed_events(v_ids, p_max_attempts) p;
    if claimed < p_batch_size and p_after = 0 then
        select l.released, process_payment_queue.dead + l.dead into released, dead
        from look_at_parked_events(p_limit => null, p_park_days => p_park_days) l;
    end if;
end
$$;
comment on function process_payment_queue(integer, bigint, boolean, integer, integer) is
    'Applies up to p_batch_size due events of the queue in one transaction: call it until claimed and released are 0. A call that finds no more also releases parked events and references whose invoice or movement has come, buries the events and drops the references that have been parked for p_park_days.';
revoke all on function process_payment_queue from public;
select grant_to('listener', 'execute on function process_payment_queue');

create or replace function prune_deliveries(p_older_than interval, p_limit integer default 10000, p_note text default null, p_actor text default null)
returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    -- Ids follow the time, so what is old stands first: nothing beyond is read, however many younger bodies there are.
    v_first bigint[] := array(
        select d.id from deliveries d order by d.id
        limit p_limit + (select count(*) from dead_letters l where l.resolution is null and l.delivery_id is not null));
    v_pruned bigint;
begin
    delete from deliveries d
    where d.id = any(array(
        select o.id from deliveries o
        where o.id = any(v_first) and o.received_at < now() - p_older_than
          and not exists (select from dead_letters l where l.delivery_id = o.id and l.resolution is null)
        order by o.id limit p_limit for update skip locked));
    get diagnostics v_pruned = row_count;
    if v_pruned > 0 then
        perform record_operator_action(p_actor, 'pruned', concat_ws(': ', format('%s deliveries older than %s', v_pruned, p_older_than), p_note), null);
    end if;
    return v_pruned;
end
$$;
comment on function prune_deliveries(interval, integer, text, text) is
    'Deletes up to p_limit request bodies older than that, oldest first, but none that an open dead letter points to, and says how many: call it until it returns 0. Events, ledger and idempotency keys stay.';
revoke all on function prune_deliveries from public;
select grant_to('operator', 'execute on function prune_deliveries');

create or replace function queue_channel() returns text
language plpgsql stable security definer set search_path from current
as $$
begin
    return 'payment_queue_' || 'payment_queue'::regclass::oid;
end
$$;
comment on function queue_channel() is 'The channel to LISTEN on for this installation''s queue.';
revoke all on function queue_channel from public;
select grant_to('listener', 'execute on function queue_channel');
select grant_to('operator', 'execute on function queue_channel');

create or replace function queue_failed_event(p_event payment_events, p_failure payment_event_outcome) returns payment_event_outcome
language plpgsql set search_path from current
as $$
declare
    v_stored record;
begin
    select * into v_stored from store_payment_events(array[p_event], true, false, array[]::bigint[], array['failed']);
    if v_stored.p_known then
        return (set_events_aside(v_stored.p_events, array[]::bigint[], v_stored.p_states, '{}', '{}'))[1];
    end if;
    insert into payment_queue (id) values (p_event.id);
    perform fail_payment_event(p_event.id, p_failure.detail);
    return row(p_event.id, p_failure.invoice_id, 'queued', p_failure.detail)::payment_event_outcome;
end
$$;
comment on function queue_failed_event(payment_events, payment_event_outcome) is
    'Stores an event whose application raised, and queues it for a retry.';
revoke all on function queue_failed_event from public;

create or replace function raise_kept_back(p_table text) returns void
language plpgsql set search_path from current
as $$
begin
    raise exception 'a trigger on % kept a row from being written', p_table
        using errcode = 'triggered_action_exception',
              detail = 'Nothing else is in its way. Without it the event would be in no place, or the invoice not say what the ledger says.',
              hint = 'A BEFORE trigger has to return new.';
end
$$;
comment on function raise_kept_back(text) is 'Raises 09000, for a BEFORE trigger of yours that returned null.';
revoke all on function raise_kept_back from public;

create or replace function raise_rejected_event(p_event payment_events, p_outcome payment_event_outcome) returns void
language plpgsql set search_path from current
as $$
begin
    if p_outcome.id is not null or p_outcome.outcome not in ('unknown_invoice', 'invalid', 'currency_mismatch', 'amount_out_of_range') then
        return;
    end if;
    raise exception using
        errcode = case p_outcome.outcome
            when 'unknown_invoice' then 'PW001' when 'invalid' then 'PW002'
            when 'currency_mismatch' then 'PW003' else 'PW004' end,
        message = p_outcome.detail,
        detail = format('event_id %s of connection %s, invoice %s, amount %s. Nothing was stored.', quote_nullable(left(p_event.event_id, 255)),
            quote_nullable(left(p_event.connection, 80)), coalesce(p_event.invoice_id::text, quote_nullable(left(p_event.invoice_reference, 255))), coalesce(p_event.amount::text, 'null')),
        hint = case p_outcome.outcome
            when 'unknown_invoice' then 'Insert the invoice (or its invoice_references row) first, or pass p_park => true to let the event wait for it.'
            when 'invalid' then 'Correct the field that the message names and send the event again.'
            when 'currency_mismatch' then 'Send the amount in the invoice''s currency, or pass p_park => true to keep the event as a dead letter.'
            else 'Split the invoice: its sums are near their limit.' end;
end
$$;
comment on function raise_rejected_event(payment_events, payment_event_outcome) is 'Raises PW001 to PW004 for an event that could not be stored.';
revoke all on function raise_rejected_event from public;

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

create or replace function record_operator_action(
    p_actor text, p_action text, p_note text, p_payment_event_id bigint, p_dead_letter_id bigint default null
) returns void
language plpgsql set search_path from current
as $$
begin
    insert into operator_actions (actor, action, note, payment_event_id, dead_letter_id)
    values (coalesce(p_actor, session_user), p_action, p_note, p_payment_event_id, p_dead_letter_id);
end
$$;
comment on function record_operator_action(text, text, text, bigint, bigint) is 'Writes the trace of an operator''s call; without p_actor, under the name of the login.';
revoke all on function record_operator_action from public;

create or replace function refuse_change() returns trigger
language plpgsql set search_path from current
as $$
begin
    raise exception '% of table % is refused: it is append-only', lower(tg_op), tg_table_name
        using errcode = 'PW005',
              detail = 'The ledger and the events it rests on are an audit trail.',
              hint = 'To undo a posted payment call void_payment(); to empty a test database, migrate down and up.';
end
$$;
comment on function refuse_change() is 'Trigger of the append-only tables: no UPDATE, DELETE or TRUNCATE, by nobody.';
revoke all on function refuse_change from public;

create or replace function release_for_invoices() returns trigger
language plpgsql security definer set search_path from current set plan_cache_mode = force_custom_plan
as $$
begin
    if exists (select from parked_events w where w.invoice_id is not null) then
        perform release_parked_events(array(select w.id from inserted i join parked_events w on w.invoice_id = i.id));
    end if;
    if exists (select from parked_references w where w.invoice_id is not null) then
        perform link_parked_references(array(
            select row(w.connection, w.reference, i.id, now())::invoice_references
            from inserted i join parked_references w on w.invoice_id = i.id));
    end if;
    return null;
end
$$;
comment on function release_for_invoices() is 'Trigger of invoices: events that waited for a new invoice go into the queue, references that waited for it are linked to it.';
revoke all on function release_for_invoices from public;

create or replace function release_for_references() returns trigger
language plpgsql security definer set search_path from current set plan_cache_mode = force_custom_plan
as $$
begin
    if exists (select from parked_events w where w.invoice_reference is not null) then
        perform release_parked_events(array(
            select w.id from inserted i
            join parked_events w on w.connection = i.connection and w.invoice_reference = i.reference));
    end if;
    if exists (select from parked_references w where w.invoice_reference is not null) then
        perform link_parked_references(array(
            select row(w.connection, w.reference, i.invoice_id, now())::invoice_references
            from inserted i
            join parked_references w on w.connection = i.connection and w.invoice_reference = i.reference));
    end if;
    return null;
end
$$;
comment on function release_for_references() is 'Trigger of invoice_references: events that waited for a new name of an invoice go into the queue, references that waited for it are linked to the same invoice.';
revoke all on function release_for_references from public;

create or replace function release_parked_events(p_ids bigint[]) returns bigint
language plpgsql set search_path from current
as $$
declare
    v_released bigint;
begin
    -- Never waits: who holds one of them is releasing it too, or posting it.
    with released as (
        delete from parked_events w
        where w.id = any(array(select l.id from parked_events l where l.id = any(p_ids) for update skip locked))
        returning w.id
    )
    insert into payment_queue (id) select r.id from released r order by r.id on conflict do nothing;
    get diagnostics v_released = row_count;
    return v_released;
end
$$;
comment on function release_parked_events(bigint[]) is 'Moves parked events into the queue; says how many.';
revoke all on function release_parked_events from public;

create or replace function report_listener(p_name text, p_poll_interval interval, p_watching boolean) returns void
language plpgsql security definer set search_path from current
as $$
begin
    insert into listeners as l (name, poll_interval, watching) values (p_name, p_poll_interval, p_watching)
    on conflict (name) do update
    set seen_at = now(), poll_interval = excluded.poll_interval, watching = excluded.watching,
        started_at = case when l.seen_at < now() - 3 * l.poll_interval then now() else l.started_at end;
    delete from listeners l where l.seen_at < now() - interval '1 day';
end
$$;
comment on function report_listener(text, interval, boolean) is 'A listener''s sign of life; drops those that gave none for a day.';
revoke all on function report_listener from public;
select grant_to('listener', 'execute on function report_listener');

create or replace function resolve_dead_letter(p_id bigint, p_resolution text, p_actor text, p_note text) returns bigint
language plpgsql set search_path from current
as $$
declare
    v_letter dead_letters;
begin
    select * into v_letter from dead_letters d where d.id = p_id for update;
    if not found or v_letter.resolution is not null and (v_letter.resolution <> 'dismissed' or p_resolution = 'dismissed') then
        raise exception 'there is no open dead letter %', p_id
            using errcode = 'PW008',
                  detail = case when v_letter.id is null then 'No dead letter has this id.'
                                else format('It was %s at %s.', v_letter.resolution, v_letter.resolved_at) end,
                  hint = 'select * from open_dead_letters; lists them.';
    elsif v_letter.payment_event_id is null and p_resolution <> 'dismissed' then
        raise exception 'dead letter % is not an event that could be applied', p_id
            using errcode = 'PW008',
                  detail = format('%s: %s', v_letter.reason, v_letter.detail),
                  hint = 'Apply what is right as an event of its own, then dismiss_dead_letter() this one.';
    end if;
    update dead_letters d set resolution = p_resolution, resolved_at = now() where d.id = p_id;
    perform record_operator_action(p_actor, p_resolution, p_note, v_letter.payment_event_id, p_id);
    return v_letter.payment_event_id;
end
$$;
comment on function resolve_dead_letter(bigint, text, text, text) is
    'Marks a dead letter as retried, reassigned or dismissed (a dismissed one may still be retried), records who did it, and returns its event.';
revoke all on function resolve_dead_letter from public;

create or replace function retry_dead_letter(p_id bigint, p_note text default null, p_actor text default null) returns void
language plpgsql security definer set search_path from current
as $$
begin
    insert into payment_queue (id) values (resolve_dead_letter(p_id, 'retried', p_actor, p_note)) on conflict do nothing;
end
$$;
comment on function retry_dead_letter(bigint, text, text) is
    'Puts a dead event back into the queue, once its cause is mended. Raises PW008 when dead_letters.id p_id is not open or is no event.';
revoke all on function retry_dead_letter from public;
select grant_to('operator', 'execute on function retry_dead_letter');

create or replace function retry_dead_letters(p_reason text, p_limit integer default 1000, p_note text default null, p_actor text default null)
returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_ids bigint[] := array(
        select d.id from dead_letters d
        where d.resolution is null and d.payment_event_id is not null and (p_reason is null or d.reason = p_reason)
        order by d.id limit p_limit for update skip locked);
begin
    perform retry_dead_letter(v.id, p_note, p_actor) from unnest(v_ids) v(id);
    return cardinality(v_ids);
end
$$;
comment on function retry_dead_letters(text, integer, text, text) is
    'Retries up to p_limit open dead events of a reason (null: of any), oldest first, and says how many: fewer than p_limit, and these were all.';
revoke all on function retry_dead_letters from public;
select grant_to('operator', 'execute on function retry_dead_letters');

create or replace function seconds_to_next_retry() returns double precision
language plpgsql stable security definer set search_path from current
as $$
begin
    return (select extract(epoch from min(q.next_attempt_at) - clock_timestamp()) from payment_queue q where q.attempts > 0);
end
$$;
comment on function seconds_to_next_retry() is
    'Seconds until the next event that has failed is due again, negative when it is overdue; null: none has failed.';
revoke all on function seconds_to_next_retry from public;
select grant_to('listener', 'execute on function seconds_to_next_retry');

create or replace function set_events_aside(
    p_events payment_events[], p_invoice_ids bigint[], p_states text[], p_own bigint[], p_parked bigint[]
) returns payment_event_outcome[]
language plpgsql set search_path from current
as $$
declare
    v_outcomes payment_event_outcome[];
    v_parked bigint[];
    v_ids bigint[] := array(select e.id from unnest(p_events) e);
begin
    select array_agg(row(
            s.id, i.id,
            case
                when p_states[e.ordinality] = 'rewritten' then 'conflict'
                when p_states[e.ordinality] = 'waiting' and e.id <> all(p_own || p_parked) then 'queued'
                when p_states[e.ordinality] = 'currency_mismatch' and e.id = any(p_parked) then 'queued'
                when p_states[e.ordinality] = 'waiting' then 'parked'
                when p_states[e.ordinality] = 'unknown_invoice' and s.id is not null then 'parked'
                else p_states[e.ordinality]
            end,
            case p_states[e.ordinality]
                when 'invalid' then (select payment_event_error(x) from unnest(p_events[e.ordinality:e.ordinality]) x)
                when 'unknown_invoice' then format('invoice %s does not exist', coalesce(e.invoice_id::text, quote_literal(e.invoice_reference)))
                when 'waiting' then format('%s %L is not posted yet', movement_kind(e.kind),
                    movement_reference(e.kind, e.reference, e.parent_reference))
                when 'currency_mismatch' then format('the event is in %s, invoice %s in %s', e.currency, i.id, i.currency)
                when 'amount_out_of_range' then format('a sum of invoice %s would exceed 10^18 minor units', i.id)
                when 'conflict' then format('%s %L is posted with another amount or on another invoice', e.kind, e.reference)
                when 'rewritten' then 'its event_id was used before with another amount, kind, currency, reference or invoice'
                when 'busy' then format('invoice %s is locked by another transaction', i.id)
                when 'dead' then (select concat_ws(': ', d.reason, d.detail) from dead_letters d
                                  where d.payment_event_id = e.id and (d.resolution is null or d.resolution = 'dismissed'))
            end)::payment_event_outcome order by e.ordinality)
    into v_outcomes
    from unnest(p_events) with ordinality e
    left join lateral (select s.id from payment_events s where s.id = e.id offset 0) s on true
    left join lateral (select * from invoices i where i.id = p_invoice_ids[e.ordinality] offset 0) i on true;

    with parked as (
        insert into parked_events (id, connection, invoice_id, invoice_reference, movement_kind, movement_reference)
        select e.id, e.connection,
               case when state = 'unknown_invoice' then e.invoice_id end,
               case when state = 'unknown_invoice' and e.invoice_id is null then e.invoice_reference end,
               case when state = 'waiting' then movement_kind(e.kind) end,
               case when state = 'waiting' then movement_reference(e.kind, e.reference, e.parent_reference) end
        from unnest(p_events) with ordinality e, unnest(p_states[e.ordinality:e.ordinality]) state
        where state in ('unknown_invoice', 'waiting') and (v_outcomes[e.ordinality]).outcome = 'parked' and e.id = any(p_own)
        order by e.id
        on conflict do nothing
        returning id
    )
    select array_agg(p.id) into v_parked from parked p;
    if exists (select from unnest(v_outcomes) o where o.outcome = 'parked' and o.id = any(p_own) and o.id <> all(coalesce(v_parked, '{}'))
               and (select w.id from parked_events w where w.id = o.id) is null) then
        perform raise_kept_back('parked_events');
    end if;
    if v_parked is not null then
        -- It may have come while we parked: a look with a fresh snapshot.
        perform release_parked_events(find_released_events(v_parked));
    end if;

    perform bury_payment_event(e.id, (v_outcomes[e.ordinality]).outcome, (v_outcomes[e.ordinality]).detail)
    from unnest(p_events) with ordinality e
    where p_states[e.ordinality] in ('conflict', 'currency_mismatch', 'amount_out_of_range')
      and (v_outcomes[e.ordinality]).id = any(p_own) and array_position(v_ids, e.id) = e.ordinality
    order by e.id;

    insert into dead_letters (connection, event_id, delivery_id, reason, detail, report, fingerprint)
    select e.connection, e.event_id, e.delivery_id, 'conflict', (v_outcomes[e.ordinality]).detail, r.report,
           encode(sha256(convert_to(r.report::text, 'UTF8')), 'hex')
    from unnest(p_events) with ordinality e,
         lateral (select to_jsonb(e) - '{id,received_at,delivery_id,occurred_at,ordinality}'::text[]) r(report)
    where p_states[e.ordinality] = 'rewritten'
    order by r.report
    on conflict do nothing;

    -- An event given twice in one batch: the second time it has become what the first time made of it.
    if 'repeated' = any(p_states) then
        v_outcomes := array(
            select case when p_states[e.ordinality] <> 'repeated' then v_outcomes[e.ordinality]
                else (select row(o.id, o.invoice_id, case when o.outcome = 'applied' then 'duplicate' when buried then 'dead' else o.outcome end,
                             case when buried then concat_ws(': ', o.outcome, o.detail) else o.detail end)::payment_event_outcome
                      from unnest(v_outcomes) with ordinality o
                      cross join lateral (select o.outcome in ('conflict', 'currency_mismatch', 'amount_out_of_range')
                                                 and o.id = any(p_own) and array_position(v_ids, o.id) = o.ordinality) b(buried)
                      where o.id = e.id and o.outcome <> 'repeated' and o.ordinality < e.ordinality
                      order by o.ordinality desc limit 1) end
            from unnest(p_events) with ordinality e order by e.ordinality);
    end if;
    return v_outcomes;
end
$$;
comment on function set_events_aside(payment_events[], bigint[], text[], bigint[], bigint[]) is
    'Makes an outcome of every state, and parks or buries those of p_own that could not be posted. Those of p_parked waited before the batch came.';
revoke all on function set_events_aside from public;

create or replace function store_dead_letter(
    p_connection text, p_reason text, p_detail text, p_body bytea, p_content_type text default null, p_event_id text default null
) returns bigint
language plpgsql security definer set search_path from current
as $$
declare
    v_id bigint;
begin
    insert into dead_letters (connection, event_id, reason, detail, delivery_id, fingerprint)
    values (p_connection, left(p_event_id, 255), p_reason, left(p_detail, 2000), nextval('deliveries_id_seq'),
            encode(sha256(p_body || convert_to(coalesce(p_detail, ''), 'UTF8')), 'hex'))
    on conflict do nothing
    returning id into v_id;
    if found then
        insert into deliveries (id, connection, content_type, body)
        select d.delivery_id, p_connection, left(p_content_type, 255), p_body from dead_letters d where d.id = v_id;
    else
        perform await_standby();
    end if;
    return v_id;
end
$$;
comment on function store_dead_letter(text, text, text, bytea, text, text) is
    'Keeps an authentic request that is not usable as an event, with its body, for a person to look at. Null when the same body is kept already for the same detail.';
revoke all on function store_dead_letter from public;
select grant_to('server', 'execute on function store_dead_letter');

create or replace function store_deliveries(
    p_events payment_events[], p_outcomes payment_event_outcome[], p_bodies bytea[], p_content_types text[], p_deliveries integer[]
) returns void
language plpgsql set search_path from current
as $$
begin
    if array_ndims(p_bodies) <> 1 or array_lower(p_bodies, 1) <> 1 or array_lower(p_content_types, 1) <> 1
            or array_lower(p_deliveries, 1) <> 1 then
        raise exception 'p_bodies, p_content_types and p_deliveries must be arrays of one dimension that begin at 1'
            using errcode = 'array_subscript_error', detail = 'A body is found by the position of its event.',
                  hint = 'array(select unnest(…)) makes one of any array.';
    end if;
    insert into deliveries (id, connection, content_type, body)
    select k.id, k.connection, left(p_content_types[k.position], 255), p_bodies[k.position]
    from (
        select distinct on (e.delivery_id)
               e.delivery_id as id, e.connection, coalesce(p_deliveries[e.ordinality], e.ordinality) as position
        from unnest(p_events) with ordinality e
        where e.delivery_id is not null
          and ((p_outcomes[e.ordinality]).id = e.id    -- stored just now; else an earlier one's id, or none
               or (select min(d.id) from dead_letters d
                   where d.connection = e.connection and d.event_id = e.event_id and d.delivery_id = e.delivery_id) is not null)
        order by e.delivery_id
    ) k;
end
$$;
comment on function store_deliveries(payment_events[], payment_event_outcome[], bytea[], text[], integer[]) is
    'Keeps the bodies of the requests that brought something new.';
revoke all on function store_deliveries from public;

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

create or replace function try_queue_watch() returns boolean
language plpgsql security definer set search_path from current
as $$
begin
    return pg_try_advisory_lock('payment_queue'::regclass::oid::integer, 2);
end
$$;
comment on function try_queue_watch() is
    'Makes this session the listener on watch, the only one that may close the gate; false if another is. Held until the session ends; call it once.';
revoke all on function try_queue_watch from public;
select grant_to('listener', 'execute on function try_queue_watch');

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

create or replace function wake_listener() returns trigger
language plpgsql security definer set search_path from current
as $$
begin
    -- The gate: whoever gets it shared knows that the listener on watch is awake and will look after this commit.
    -- A NOTIFY takes a cluster-wide lock over the commit's flush, so it is sent only where somebody sleeps.
    if exists (select from inserted)
            and not pg_try_advisory_xact_lock_shared(tg_relid::integer, 1)
            and pg_notification_queue_usage() < 0.5 then
        perform pg_notify('payment_queue_' || tg_relid, '');
    end if;
    return null;
end
$$;
comment on function wake_listener() is
    'Trigger of payment_queue: notifies the listener if it sleeps (see close_queue_gate). The poll is the guarantee, this is the speed.';
revoke all on function wake_listener from public;

reset role;

-- migrate:down
select set_config('search_path', format('%I, pg_temp', current_schema()), true);
drop function
    wake_listener,
    void_payment,
    try_queue_watch,
    store_payment_events,
    store_deliveries,
    store_dead_letter,
    set_events_aside,
    seconds_to_next_retry,
    retry_dead_letters,
    retry_dead_letter,
    resolve_dead_letter,
    report_listener,
    release_parked_events,
    release_for_references,
    release_for_invoices,
    refuse_change,
    record_operator_action,
    reassign_dead_letter,
    raise_rejected_event,
    raise_kept_back,
    queue_failed_event,
    queue_channel,
    prune_deliveries,
    process_payment_queue,
    process_claimed_events,
    post_payments,
    payment_event_results,
    open_queue_gate,
    new_payment_events,
    misplaced_events,
    look_at_parked_events,
    lock_invoices,
    link_parked_references,
    link_invoice_reference,
    leave_waiting,
    invoice_timeline,
    invoice_discrepancies,
    import_payment_events,
    import_invoice_reference,
    import_dead_letter,
    guard_invoice_sums,
    freeze_invoice_currency,
    foresee_currency_mismatches,
    follow_invoice_amount,
    find_released_references,
    find_released_events,
    find_payment_events,
    find_named_invoices,
    find_invoices,
    find_invoice,
    fail_payment_event,
    expire_parked_events,
    enqueue_payment_events,
    enqueue_payment_event,
    enqueue_batch,
    dismiss_dead_letters,
    dismiss_dead_letter,
    close_queue_gate,
    close_fetched_delivery,
    claim_unfetched_delivery,
    claim_payment_events,
    bury_payment_event,
    await_standby,
    as_invoice_id,
    apply_payment_events,
    apply_payment_event,
    apply_isolated,
    apply_batch,
    posting_phase,
    payment_event_error,
    movement_reference,
    movement_kind,
    invoice_status,
    base_kind;
