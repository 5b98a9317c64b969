\set change 20261101000006_version
\ir ../down.sql
