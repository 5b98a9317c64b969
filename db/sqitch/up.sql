-- Runs the up part of migrations/:change.sql in one transaction: sqitch opens none.
\set statements `sed -n '/^-- migrate:up/,/^-- migrate:down/p' migrations/:change.sql || echo cannot read migrations/:change.sql`
begin;
\o /dev/null
:statements
\o
commit;
