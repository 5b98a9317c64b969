\set change 20261101000004_triggers
\ir ../down.sql
