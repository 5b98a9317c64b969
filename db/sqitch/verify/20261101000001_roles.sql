-- Verifies that what migrations/20261101000001_roles.sql made is there. Derived.
begin;
create temp table expected (object text);
copy expected from stdin;
function grant_to(text,text)
function role_name(text)
role biller
role listener
role operator
role owner
role reader
role server
\.
\ir ../verify.sql
rollback;
