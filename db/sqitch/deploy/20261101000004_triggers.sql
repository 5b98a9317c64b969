\set change 20261101000004_triggers
\ir ../up.sql
