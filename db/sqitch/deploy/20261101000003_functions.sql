\set change 20261101000003_functions
\ir ../up.sql
