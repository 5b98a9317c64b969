-- Verifies that what migrations/20261101000003_functions.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
function apply_batch(payment_events[],boolean,boolean,boolean)
function apply_isolated(payment_events[],boolean,boolean,boolean)
function apply_payment_event(text,bigint,bigint,text,text,text,text,text,text,timestamp with time zone,bytea,text,boolean) security definer
function apply_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],bytea[],text[],integer[],boolean,boolean) security definer
function as_invoice_id(text)
function await_standby()
function base_kind(text)
function bury_payment_event(bigint,text,text,integer)
function claim_payment_events(integer,bigint,boolean) security definer
function claim_unfetched_delivery(text) security definer
function close_fetched_delivery(bigint) security definer
function close_queue_gate() security definer
function dismiss_dead_letter(bigint,text,text) security definer
function dismiss_dead_letters(text,integer,text,text) security definer
function enqueue_batch(payment_events[],bigint[],boolean)
function enqueue_payment_event(text,bigint,bigint,text,text,text,text,text,text,timestamp with time zone,bytea,text,boolean) security definer
function enqueue_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],bytea[],text[],integer[],boolean) security definer
function expire_parked_events(integer)
function fail_payment_event(bigint,text,integer) security definer
function find_invoice(text,bigint,text)
function find_invoices(payment_events[])
function find_named_invoices(text) security definer
function find_payment_events(text) security definer
function find_released_events(bigint[])
function find_released_references()
function follow_invoice_amount() security definer
function foresee_currency_mismatches(payment_events[],bigint[],text[])
function freeze_invoice_currency() security definer
function guard_invoice_sums()
function import_dead_letter(text,text,text,bytea,text,text,text,text) security definer
function import_invoice_reference(text,text,bigint,text,text,text) security definer
function import_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],bytea[],text[],integer[],boolean,text,text) security definer
function invoice_discrepancies() security definer
function invoice_status(bigint,bigint,bigint,bigint)
function invoice_timeline(bigint) security definer
function leave_waiting(payment_event_outcome[],boolean)
function link_invoice_reference(text,text,bigint,text) security definer
function link_parked_references(invoice_references[])
function lock_invoices(payment_events[],boolean)
function look_at_parked_events(bigint,integer,integer) security definer
function misplaced_events() security definer
function movement_kind(text)
function movement_reference(text,text,text)
function new_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],integer[],bytea[])
function open_queue_gate() security definer
function payment_event_error(payment_events)
function payment_event_results(payment_events[],payment_event_outcome[])
function post_payments(payment_events[],bigint[],text[])
function posting_phase(text)
function process_claimed_events(bigint[],integer) security definer
function process_payment_queue(integer,bigint,boolean,integer,integer) security definer
function prune_deliveries(interval,integer,text,text) security definer
function queue_channel() security definer
function queue_failed_event(payment_events,payment_event_outcome)
function raise_kept_back(text)
function raise_rejected_event(payment_events,payment_event_outcome)
function reassign_dead_letter(bigint,bigint,text,text) security definer
function record_operator_action(text,text,text,bigint,bigint)
function refuse_change()
function release_for_invoices() security definer
function release_for_references() security definer
function release_parked_events(bigint[])
function report_listener(text,interval,boolean) security definer
function resolve_dead_letter(bigint,text,text,text)
function retry_dead_letter(bigint,text,text) security definer
function retry_dead_letters(text,integer,text,text) security definer
function seconds_to_next_retry() security definer
function set_events_aside(payment_events[],bigint[],text[],bigint[],bigint[])
function store_dead_letter(text,text,text,bytea,text,text) security definer
function store_deliveries(payment_events[],payment_event_outcome[],bytea[],text[],integer[])
function store_payment_events(payment_events[],boolean,boolean,bigint[],text[])
function try_queue_watch() security definer
function void_payment(text,text,text,text) security definer
function wake_listener() security definer
grant execute on apply_payment_event(text,bigint,bigint,text,text,text,text,text,text,timestamp with time zone,bytea,text,boolean) to server
grant execute on apply_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],bytea[],text[],integer[],boolean,boolean) to server
grant execute on claim_payment_events(integer,bigint,boolean) to listener
grant execute on claim_unfetched_delivery(text) to server
grant execute on close_fetched_delivery(bigint) to server
grant execute on close_queue_gate() to listener
grant execute on dismiss_dead_letter(bigint,text,text) to operator
grant execute on dismiss_dead_letters(text,integer,text,text) to operator
grant execute on enqueue_payment_event(text,bigint,bigint,text,text,text,text,text,text,timestamp with time zone,bytea,text,boolean) to server
grant execute on enqueue_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],bytea[],text[],integer[],boolean) to server
grant execute on fail_payment_event(bigint,text,integer) to listener
grant execute on find_named_invoices(text) to operator
grant execute on find_named_invoices(text) to reader
grant execute on find_payment_events(text) to operator
grant execute on find_payment_events(text) to reader
grant execute on import_dead_letter(text,text,text,bytea,text,text,text,text) to operator
grant execute on import_invoice_reference(text,text,bigint,text,text,text) to operator
grant execute on import_payment_events(text[],bigint[],bigint[],text[],text[],text[],text[],text[],text[],timestamp with time zone[],bytea[],text[],integer[],boolean,text,text) to operator
grant execute on invoice_discrepancies() to operator
grant execute on invoice_timeline(bigint) to operator
grant execute on invoice_timeline(bigint) to reader
grant execute on link_invoice_reference(text,text,bigint,text) to server
grant execute on look_at_parked_events(bigint,integer,integer) to listener
grant execute on misplaced_events() to operator
grant execute on open_queue_gate() to listener
grant execute on process_claimed_events(bigint[],integer) to listener
grant execute on process_payment_queue(integer,bigint,boolean,integer,integer) to listener
grant execute on prune_deliveries(interval,integer,text,text) to operator
grant execute on queue_channel() to listener
grant execute on queue_channel() to operator
grant execute on reassign_dead_letter(bigint,bigint,text,text) to operator
grant execute on report_listener(text,interval,boolean) to listener
grant execute on retry_dead_letter(bigint,text,text) to operator
grant execute on retry_dead_letters(text,integer,text,text) to operator
grant execute on seconds_to_next_retry() to listener
grant execute on store_dead_letter(text,text,text,bytea,text,text) to server
grant execute on try_queue_watch() to listener
grant execute on void_payment(text,text,text,text) to operator
\.
\ir ../verify.sql
rollback;
