-- Verifies that what migrations/20261101000006_version.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
function schema_version() security definer
grant execute on schema_version() to listener
grant execute on schema_version() to operator
grant execute on schema_version() to reader
grant execute on schema_version() to server
\.
\ir ../verify.sql
rollback;
