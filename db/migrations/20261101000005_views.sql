-- What people look at. No view shows a body.

-- migrate:up
select set_config('search_path', format('%I, pg_temp', current_schema()), true), set_config('role', role_name('owner'), true);

create view invoice_balances as
select i.id, i.status, i.currency, i.amount,
       i.amount_paid as paid, i.amount_refunded as refunded, i.amount_charged_back as charged_back,
       greatest(i.amount - (i.amount_paid - i.amount_refunded - i.amount_charged_back), 0) as due,
       greatest(i.amount_paid - i.amount_refunded - i.amount_charged_back - i.amount, 0) as overpaid,
       i.created_at, i.updated_at
from invoices i;
comment on view invoice_balances is 'Invoices with what is due and what came in too much, in minor units.';

create view payment_event_states as
select e.id, e.received_at, e.connection, e.event_id, e.kind, e.amount, e.currency, e.reference, e.parent_reference,
       e.invoice_reference, coalesce(p.invoice_id, o.invoice_id, a.invoice_id, e.invoice_id) as invoice_id,
       case when p.id is not null or r.id is not null then 'processed' when d.id is not null then 'failed' else 'pending' end as state,
       case when p.id is not null then 'posted' when r.id is not null then 'reported' when d.id is not null then 'dead'
            when w.id is not null then 'parked' else 'queued' end as place,
       case when p.id is not null then null
            when r.id is not null then format('reports what event %s posted', r.payment_id)
            when d.id is not null then concat_ws(': ', d.reason, d.detail)
            when w.id is not null then 'waits for ' || coalesce('invoice ' || w.invoice_id, 'invoice reference ' || quote_literal(w.invoice_reference),
                                                               w.movement_kind || ' ' || quote_literal(w.movement_reference))
            when q.attempts > 0 then format('failed %s times, next attempt at %s: %s', q.attempts, q.next_attempt_at, q.last_error)
       end as detail,
       p.posted_at
from payment_events e
left join payments p on p.id = e.id
left join payment_reports r on r.id = e.id
left join payments o on o.id = r.payment_id
left join dead_letters d on d.payment_event_id = e.id and (d.resolution is null or d.resolution = 'dismissed')
left join parked_events w on w.id = e.id
left join payment_queue q on q.id = e.id
left join reassigned_events a on a.id = e.id;
comment on view payment_event_states is
    'Every event and what became of it: state pending, processed or failed; place queued, parked, posted, reported or dead; detail says why.';

create view waiting_events as
select s.id, s.received_at, now() - s.received_at as waiting, s.place, s.connection, s.event_id, s.kind, s.amount, s.currency, s.invoice_id, s.detail
from (select q.id from payment_queue q union all select w.id from parked_events w) v
cross join lateral (select * from payment_event_states t where t.id = v.id offset 0) s;    -- offset 0: by the key, not every event there ever was
comment on view waiting_events is 'What waits, in the queue or parked, for how long and for what.';

create view open_dead_letters as
select d.id, d.died_at, d.reason, d.detail, d.attempts, d.connection, d.event_id, d.payment_event_id, d.report,
       e.kind, e.amount, e.currency, e.invoice_id, e.invoice_reference, e.reference, e.parent_reference, d.delivery_id
from dead_letters d
left join payment_events e on e.id = d.payment_event_id
where d.resolution is null;
comment on view open_dead_letters is
    'What needs a person, and why. retry_dead_letter(id), reassign_dead_letter(id, invoice), dismiss_dead_letter(id).';

create view queue_health as
select (select count(*) from payment_queue) as queued,
       (select count(*) from payment_queue q where q.attempts > 0) as retrying,
       (select coalesce(max(now() - q.next_attempt_at), interval '0') from payment_queue q where q.next_attempt_at <= now()) as longest_overdue,
       (select count(*) from parked_events) as parked,
       (select min(w.parked_at) from parked_events w) as parked_since,
       (select count(*) from dead_letters d
        where d.resolution is null and (d.reason <> 'not_fetched' or d.died_at < now() - interval '10 minutes')) as dead;
comment on view queue_health is
    'One row: how much waits, how long the longest has been due, how much is parked, how much is dead (not_fetched once it is ten minutes old: servers ask again meanwhile).';

create view dead_letter_reasons as
select d.reason, count(*) as letters, count(d.payment_event_id) as retriable, min(d.died_at) as oldest, max(d.died_at) as newest
from dead_letters d
where d.resolution is null
group by d.reason;
comment on view dead_letter_reasons is 'Open dead letters by reason; retriable are those that are events: retry_dead_letters(reason).';

create view event_rates as
select r.received, p.posted
from (select coalesce(count(*) / greatest(extract(epoch from now() - min(n.received_at)), 1), 0)::float as received
      from (select e.received_at from payment_events e order by e.id desc limit 1000) n
      where n.received_at > now() - interval '1 minute') r,
     (select coalesce(count(*) / greatest(extract(epoch from now() - min(n.posted_at)), 1), 0)::float as posted
      from (select l.posted_at from payments l order by l.id desc limit 1000) n
      where n.posted_at > now() - interval '1 minute') p;
comment on view event_rates is
    'Events received and posted, each a second: over the newest 1,000 or the last minute, whichever is shorter. Cheap at any size of history.';

create view listener_states as
select l.name, l.seen_at > now() - 3 * l.poll_interval as alive,
       l.watching and l.seen_at > now() - 3 * l.poll_interval as watching, l.started_at, l.seen_at, now() - l.seen_at as silent
from listeners l;
comment on view listener_states is 'Listeners of the last day; alive: the last sign of life is at most three polls old.';

select grant_to('listener', 'select on queue_health'),
       grant_to(r, 'select on invoice_balances, payment_event_states, waiting_events, open_dead_letters, queue_health,'
                   ' dead_letter_reasons, event_rates, listener_states')
from unnest(array['operator', 'reader']) r;

revoke all on type invoice_balances, payment_event_states, waiting_events, open_dead_letters, queue_health,
    dead_letter_reasons, event_rates, listener_states from public;

reset role;

-- migrate:down
select set_config('search_path', format('%I, pg_temp', current_schema()), true);
drop view listener_states, event_rates, dead_letter_reasons, queue_health, open_dead_letters, waiting_events, payment_event_states, invoice_balances;
