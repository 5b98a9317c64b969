-- What must hold whoever writes, and what wakes whom.

-- migrate:up
select set_config('search_path', format('%I, pg_temp', current_schema()), true), set_config('role', role_name('owner'), true);

create trigger invoices_sums_start_at_zero before insert on invoices
    for each row when (new.amount_paid <> 0 or new.amount_refunded <> 0 or new.amount_charged_back <> 0)
    execute function guard_invoice_sums();
create trigger invoices_guard_sums before update of amount_paid, amount_refunded, amount_charged_back on invoices
    for each statement execute function guard_invoice_sums();
create trigger invoices_follow_amount before update of amount on invoices
    for each row when (old.amount <> new.amount) execute function follow_invoice_amount();
create trigger invoices_freeze_currency before update of currency on invoices
    for each row when (old.currency <> new.currency) execute function freeze_invoice_currency();
-- Though a subscription writes, whose merchants' database does not know of payments.
alter table invoices enable always trigger invoices_follow_amount, enable always trigger invoices_freeze_currency;
create trigger invoices_release after insert on invoices
    referencing new table as inserted for each statement execute function release_for_invoices();
create trigger invoice_references_release after insert on invoice_references
    referencing new table as inserted for each statement execute function release_for_references();
create trigger payment_queue_wake after insert on payment_queue
    referencing new table as inserted for each statement execute function wake_listener();

create trigger payment_events_append_only before update or delete or truncate on payment_events
    for each statement execute function refuse_change();
create trigger payments_append_only before update or delete or truncate on payments
    for each statement execute function refuse_change();
create trigger payment_reports_append_only before update or delete or truncate on payment_reports
    for each statement execute function refuse_change();
create trigger operator_actions_append_only before update or delete or truncate on operator_actions
    for each statement execute function refuse_change();

reset role;

-- migrate:down
select set_config('search_path', format('%I, pg_temp', current_schema()), true);
drop trigger operator_actions_append_only on operator_actions;
drop trigger payment_reports_append_only on payment_reports;
drop trigger payments_append_only on payments;
drop trigger payment_events_append_only on payment_events;
drop trigger payment_queue_wake on payment_queue;
drop trigger invoice_references_release on invoice_references;
drop trigger invoices_release on invoices;
drop trigger invoices_freeze_currency on invoices;
drop trigger invoices_follow_amount on invoices;
drop trigger invoices_guard_sums on invoices;
drop trigger invoices_sums_start_at_zero on invoices;
