\set change 20261101000001_roles
\ir ../down.sql
