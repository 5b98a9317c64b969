-- What a service asks to know whether this schema is new enough. Every later migration replaces the function.

-- migrate:up
select set_config('search_path', format('%I, pg_temp', current_schema()), true), set_config('role', role_name('owner'), true);

create or replace function schema_version() returns text
language sql immutable security definer set search_path from current
as $$ select '20261101000006' $$;
comment on function schema_version() is
    'The newest migration that this schema stands at. Every migration replaces it, so that a service can tell whether the schema is new enough.';
revoke all on function schema_version from public;
select grant_to(r, 'execute on function schema_version()') from unnest(array['server', 'listener', 'operator', 'reader']) r;

reset role;

-- migrate:down
select set_config('search_path', format('%I, pg_temp', current_schema()), true);
drop function schema_version();
