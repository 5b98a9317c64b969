-- Verifies that what migrations/20261101000002_tables.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
column dead_letters.attempts integer not null
column dead_letters.connection text not null
column dead_letters.delivery_id bigint
column dead_letters.detail text
column dead_letters.died_at timestamp with time zone not null
column dead_letters.event_id text
column dead_letters.fingerprint text
column dead_letters.id bigint not null
column dead_letters.payment_event_id bigint
column dead_letters.reason text not null
column dead_letters.report jsonb
column dead_letters.resolution text
column dead_letters.resolved_at timestamp with time zone
column deliveries.body bytea not null
column deliveries.connection text not null
column deliveries.content_type text
column deliveries.id bigint not null
column deliveries.received_at timestamp with time zone not null
column invoice_references.connection text not null
column invoice_references.created_at timestamp with time zone not null
column invoice_references.invoice_id bigint not null
column invoice_references.reference text not null
column invoices.amount bigint not null
column invoices.amount_charged_back bigint not null
column invoices.amount_paid bigint not null
column invoices.amount_refunded bigint not null
column invoices.created_at timestamp with time zone not null
column invoices.currency text not null
column invoices.id bigint not null
column invoices.status text not null
column invoices.updated_at timestamp with time zone not null
column listeners.name text not null
column listeners.poll_interval interval not null
column listeners.seen_at timestamp with time zone not null
column listeners.started_at timestamp with time zone not null
column listeners.watching boolean not null
column operator_actions.acted_at timestamp with time zone not null
column operator_actions.action text not null
column operator_actions.actor text not null
column operator_actions.dead_letter_id bigint
column operator_actions.id bigint not null
column operator_actions.note text
column operator_actions.payment_event_id bigint
column parked_events.connection text not null
column parked_events.id bigint not null
column parked_events.invoice_id bigint
column parked_events.invoice_reference text
column parked_events.movement_kind text
column parked_events.movement_reference text
column parked_events.parked_at timestamp with time zone not null
column parked_references.connection text not null
column parked_references.invoice_id bigint
column parked_references.invoice_reference text
column parked_references.parked_at timestamp with time zone not null
column parked_references.reference text not null
column payment_event_outcome.detail text
column payment_event_outcome.id bigint
column payment_event_outcome.invoice_id bigint
column payment_event_outcome.outcome text
column payment_event_receipt.detail text
column payment_event_receipt.event_id text
column payment_event_receipt.invoice_id bigint
column payment_event_receipt.outcome text
column payment_event_result.amount bigint
column payment_event_result.charged_back bigint
column payment_event_result.currency text
column payment_event_result.detail text
column payment_event_result.due bigint
column payment_event_result.event_id text
column payment_event_result.invoice_id bigint
column payment_event_result.outcome text
column payment_event_result.overpaid bigint
column payment_event_result.paid bigint
column payment_event_result.refunded bigint
column payment_event_result.status text
column payment_events.amount bigint not null
column payment_events.connection text not null
column payment_events.currency text
column payment_events.delivery_id bigint
column payment_events.event_id text not null
column payment_events.id bigint not null
column payment_events.invoice_id bigint
column payment_events.invoice_reference text
column payment_events.kind text not null
column payment_events.occurred_at timestamp with time zone
column payment_events.parent_reference text
column payment_events.received_at timestamp with time zone not null
column payment_events.reference text
column payment_events.reverses bigint
column payment_queue.attempts integer not null
column payment_queue.id bigint not null
column payment_queue.last_error text
column payment_queue.next_attempt_at timestamp with time zone not null
column payment_reports.id bigint not null
column payment_reports.payment_id bigint not null
column payments.amount bigint not null
column payments.connection text not null
column payments.id bigint not null
column payments.invoice_id bigint not null
column payments.kind text not null
column payments.posted_at timestamp with time zone not null
column payments.reference text
column payments.reverses bigint
column reassigned_events.id bigint not null
column reassigned_events.invoice_id bigint not null
constraint dead_letters_identity_check on dead_letters
constraint dead_letters_pkey on dead_letters
constraint dead_letters_reason_check on dead_letters
constraint dead_letters_resolution_check on dead_letters
constraint dead_letters_resolved_check on dead_letters
constraint deliveries_content_type_check on deliveries
constraint deliveries_pkey on deliveries
constraint invoice_references_connection_check on invoice_references
constraint invoice_references_invoice_id_fkey on invoice_references
constraint invoice_references_pkey on invoice_references
constraint invoice_references_reference_check on invoice_references
constraint invoices_amount_check on invoices
constraint invoices_currency_check on invoices
constraint invoices_pkey on invoices
constraint invoices_status_follows_sums_check on invoices
constraint invoices_sums_check on invoices
constraint listeners_pkey on listeners
constraint operator_actions_pkey on operator_actions
constraint parked_events_awaited_check on parked_events
constraint parked_events_pkey on parked_events
constraint parked_references_awaited_check on parked_references
constraint parked_references_pkey on parked_references
constraint payment_events_amount_check on payment_events
constraint payment_events_connection_check on payment_events
constraint payment_events_currency_check on payment_events
constraint payment_events_event_id_connection_key on payment_events
constraint payment_events_invoice_check on payment_events
constraint payment_events_kind_check on payment_events
constraint payment_events_length_check on payment_events
constraint payment_events_pkey on payment_events
constraint payment_queue_pkey on payment_queue
constraint payment_reports_pkey on payment_reports
constraint payments_invoice_id_fkey on payments
constraint payments_pkey on payments
constraint reassigned_events_invoice_id_fkey on reassigned_events
constraint reassigned_events_pkey on reassigned_events
grant delete on invoice_references to biller
grant insert on invoice_references (connection) to biller
grant insert on invoice_references (invoice_id) to biller
grant insert on invoice_references (reference) to biller
grant insert on invoices (amount) to biller
grant insert on invoices (currency) to biller
grant insert on invoices (id) to biller
grant insert on invoices (status) to biller
grant select on dead_letters to operator
grant select on deliveries to operator
grant select on invoice_references to biller
grant select on invoice_references to operator
grant select on invoices to biller
grant select on invoices to operator
grant select on listeners to operator
grant select on operator_actions to operator
grant select on parked_events to operator
grant select on parked_references to operator
grant select on payment_events to operator
grant select on payment_queue to operator
grant select on payment_reports to operator
grant select on payments to operator
grant select on reassigned_events to operator
grant update on invoices (amount) to biller
index dead_letters_event_id_connection_idx
index dead_letters_fingerprint_key
index dead_letters_open_idx
index dead_letters_payment_event_id_key
index dead_letters_pkey
index deliveries_pkey
index invoice_references_invoice_id_idx
index invoice_references_pkey
index invoices_pkey
index listeners_pkey
index operator_actions_payment_event_id_idx
index operator_actions_pkey
index parked_events_invoice_id_idx
index parked_events_invoice_reference_idx
index parked_events_movement_idx
index parked_events_parked_at_idx
index parked_events_pkey
index parked_references_invoice_id_idx
index parked_references_invoice_reference_idx
index parked_references_parked_at_idx
index parked_references_pkey
index payment_events_event_id_connection_key
index payment_events_pkey
index payment_queue_next_attempt_at_idx
index payment_queue_pkey
index payment_reports_payment_id_idx
index payment_reports_pkey
index payments_invoice_id_idx
index payments_pkey
index payments_reference_kind_connection_key
index payments_reverses_key
index reassigned_events_pkey
sequence dead_letters_id_seq
sequence deliveries_id_seq
sequence operator_actions_id_seq
sequence payment_events_id_seq
table dead_letters
table deliveries
table invoice_references
table invoices
table listeners
table operator_actions
table parked_events
table parked_references
table payment_events
table payment_queue
table payment_reports
table payments
table reassigned_events
type payment_event_outcome
type payment_event_receipt
type payment_event_result
\.
\ir ../verify.sql
rollback;
