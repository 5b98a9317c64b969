\set change 20261101000005_views
\ir ../down.sql
