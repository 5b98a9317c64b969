-- Verifies that what migrations/20261101000004_triggers.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
trigger invoice_references_release on invoice_references
trigger invoices_follow_amount on invoices
trigger invoices_freeze_currency on invoices
trigger invoices_guard_sums on invoices
trigger invoices_release on invoices
trigger invoices_sums_start_at_zero on invoices
trigger operator_actions_append_only on operator_actions
trigger payment_events_append_only on payment_events
trigger payment_queue_wake on payment_queue
trigger payment_reports_append_only on payment_reports
trigger payments_append_only on payments
\.
\ir ../verify.sql
rollback;
