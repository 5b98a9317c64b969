\set change 20261101000002_tables
\ir ../up.sql
