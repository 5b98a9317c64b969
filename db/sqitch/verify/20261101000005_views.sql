-- Verifies that what migrations/20261101000005_views.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
column dead_letter_reasons.letters bigint
column dead_letter_reasons.newest timestamp with time zone
column dead_letter_reasons.oldest timestamp with time zone
column dead_letter_reasons.reason text
column dead_letter_reasons.retriable bigint
column event_rates.posted double precision
column event_rates.received double precision
column invoice_balances.amount bigint
column invoice_balances.charged_back bigint
column invoice_balances.created_at timestamp with time zone
column invoice_balances.currency text
column invoice_balances.due bigint
column invoice_balances.id bigint
column invoice_balances.overpaid bigint
column invoice_balances.paid bigint
column invoice_balances.refunded bigint
column invoice_balances.status text
column invoice_balances.updated_at timestamp with time zone
column listener_states.alive boolean
column listener_states.name text
column listener_states.seen_at timestamp with time zone
column listener_states.silent interval
column listener_states.started_at timestamp with time zone
column listener_states.watching boolean
column open_dead_letters.amount bigint
column open_dead_letters.attempts integer
column open_dead_letters.connection text
column open_dead_letters.currency text
column open_dead_letters.delivery_id bigint
column open_dead_letters.detail text
column open_dead_letters.died_at timestamp with time zone
column open_dead_letters.event_id text
column open_dead_letters.id bigint
column open_dead_letters.invoice_id bigint
column open_dead_letters.invoice_reference text
column open_dead_letters.kind text
column open_dead_letters.parent_reference text
column open_dead_letters.payment_event_id bigint
column open_dead_letters.reason text
column open_dead_letters.reference text
column open_dead_letters.report jsonb
column payment_event_states.amount bigint
column payment_event_states.connection text
column payment_event_states.currency text
column payment_event_states.detail text
column payment_event_states.event_id text
column payment_event_states.id bigint
column payment_event_states.invoice_id bigint
column payment_event_states.invoice_reference text
column payment_event_states.kind text
column payment_event_states.parent_reference text
column payment_event_states.place text
column payment_event_states.posted_at timestamp with time zone
column payment_event_states.received_at timestamp with time zone
column payment_event_states.reference text
column payment_event_states.state text
column queue_health.dead bigint
column queue_health.longest_overdue interval
column queue_health.parked bigint
column queue_health.parked_since timestamp with time zone
column queue_health.queued bigint
column queue_health.retrying bigint
column waiting_events.amount bigint
column waiting_events.connection text
column waiting_events.currency text
column waiting_events.detail text
column waiting_events.event_id text
column waiting_events.id bigint
column waiting_events.invoice_id bigint
column waiting_events.kind text
column waiting_events.place text
column waiting_events.received_at timestamp with time zone
column waiting_events.waiting interval
grant select on dead_letter_reasons to operator
grant select on dead_letter_reasons to reader
grant select on event_rates to operator
grant select on event_rates to reader
grant select on invoice_balances to operator
grant select on invoice_balances to reader
grant select on listener_states to operator
grant select on listener_states to reader
grant select on open_dead_letters to operator
grant select on open_dead_letters to reader
grant select on payment_event_states to operator
grant select on payment_event_states to reader
grant select on queue_health to listener
grant select on queue_health to operator
grant select on queue_health to reader
grant select on waiting_events to operator
grant select on waiting_events to reader
view dead_letter_reasons
view event_rates
view invoice_balances
view listener_states
view open_dead_letters
view payment_event_states
view queue_health
view waiting_events
\.
\ir ../verify.sql
rollback;
