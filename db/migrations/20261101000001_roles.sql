-- The roles of this installation, and the two functions that name them and grant to them.
--
-- Roles belong to the whole cluster, so their names carry database and schema: payments_public_server. One merchant's
-- server reaches no other's schema. Nobody logs in as any of them; a login is made a member:
--     create role webhooks login in role payments_public_server;

-- migrate:up
do $$
declare
    v_schema text := current_schema();
    v_installation text := format('payment webhooks of database %s, schema %s', current_database(), current_schema());
    v_prefix text := current_database() || '_' || current_schema();
    v_role text;
    v_stranger text;
begin
    if v_schema is null then
        raise exception 'the schema to install into does not exist: search_path is "%"', current_setting('search_path')
            using errcode = 'PW009',
                  detail = format('database %s, user %s', current_database(), current_user),
                  hint = 'Create it first (create schema billing), then migrate again.';
    end if;

    if getdatabaseencoding() <> 'UTF8' then
        raise exception 'the encoding of database "%" is %', current_database(), getdatabaseencoding()
            using errcode = 'PW009',
                  detail = 'What providers send is UTF-8, and has to be stored as it came.',
                  hint = format('create database %I template template0 encoding UTF8; then migrate that one.', current_database());
    end if;

    if octet_length(v_prefix) > 54 then    -- names end at 63 bytes
        v_prefix := left(regexp_replace(v_prefix, '[^ -~]', '', 'g'), 21) || '_' || md5(v_prefix);
    end if;

    -- Our functions run as their owner and find operators in this schema: whoever may create one here could run as it.
    select coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') into v_stranger
    from pg_namespace n, aclexplode(n.nspacl) a
    where n.nspname = v_schema and a.privilege_type = 'CREATE'
      and a.grantee <> n.nspowner and pg_get_userbyid(a.grantee) not in (current_user, v_prefix || '_owner')
    limit 1;
    if v_stranger is not null then
        raise exception 'refusing to install: % may create objects in schema "%"', v_stranger, v_schema
            using errcode = 'PW009',
                  detail = 'An operator planted there would run with the rights of the owner of the payment tables.',
                  hint = format('revoke create on schema %I from %s; or install into a schema of its own.', v_schema, v_stranger);
    end if;

    foreach v_role in array array['owner', 'server', 'listener', 'biller', 'operator', 'reader'] loop
        v_role := v_prefix || '_' || v_role;
        if to_regrole(quote_ident(v_role)) is null then
            execute format('create role %I nologin', v_role);
            execute format('comment on role %I is %L', v_role, v_installation);
        elsif shobj_description(to_regrole(quote_ident(v_role)), 'pg_authid') is distinct from v_installation
            -- or that was renamed since, and is served by it still
            or exists (select from pg_shdepend s
                       where s.refclassid = 'pg_authid'::regclass and s.refobjid = to_regrole(quote_ident(v_role)) and s.deptype = 'o'
                         and (s.dbid not in (0, (select d.oid from pg_database d where d.datname = current_database()))
                              or (select c.relnamespace from pg_class c where s.classid = 'pg_class'::regclass and c.oid = s.objid) <> to_regnamespace(quote_ident(v_schema)))) then
            raise exception 'role "%" exists and is not of this installation (%)', v_role, v_installation
                using errcode = 'PW009',
                      detail = 'Roles belong to the whole cluster; this one may have rights that ours must not have.',
                      hint = 'Rename that role, or install into a schema of another name.';
        end if;
        execute format('grant usage on schema %I to %I', v_schema, v_role);
    end loop;
    execute format('grant create on schema %I to %I', v_schema, v_prefix || '_owner');
    execute format('grant %I to current_user', v_prefix || '_owner');
    if not pg_has_role(v_prefix || '_owner', 'usage') then
        raise exception 'role "%" does not inherit what it is granted, so it cannot migrate', current_user
            using errcode = 'PW009',
                  detail = 'Later migrations need the rights of the owner of the payment tables without asking for them.',
                  hint = format('alter role %I inherit; then migrate again.', current_user);
    elsif not has_schema_privilege(v_prefix || '_owner', v_schema, 'create') then
        raise exception 'role "%" cannot give the owner of the payment tables its rights in schema "%"', current_user, v_schema
            using errcode = 'PW009',
                  detail = format('The tables go into that schema and belong to %s_owner.', v_prefix),
                  hint = 'Migrate as the owner of that schema (of schema public: of the database), or as a superuser.';
    end if;
    perform set_config('role', v_prefix || '_owner', true);
end
$$;
select set_config('search_path', format('%I, pg_temp', current_schema()), true);

create function role_name(p_role text) returns text
language sql stable set search_path from current
as $$
    select regexp_replace(pg_get_userbyid(p.proowner), '_owner$', '_' || p_role)
    from pg_proc p
    where p.oid = 'role_name(text)'::regprocedure;
$$;
comment on function role_name(text) is
    'The cluster-wide name of this installation''s role: owner, server, listener, biller, operator or reader.';
revoke all on function role_name from public;

create function grant_to(p_role text, p_privileges text) returns void
language plpgsql set search_path from current
as $$
begin
    execute format('grant %s to %I', p_privileges, role_name(p_role));
end
$$;
comment on function grant_to(text, text) is
    'Grants to a role of this installation: select grant_to(''server'', ''execute on function f''). Runs as its caller.';
revoke all on function grant_to from public;

reset role;

-- migrate:down
select set_config('search_path', format('%I, pg_temp', current_schema()), true);
do $$
declare
    v_roles text[] := array(select role_name(r) from unnest(array['server', 'listener', 'biller', 'operator', 'reader', 'owner']) r);
    v_role text;
begin
    drop function grant_to(text, text);
    drop function role_name(text);
    foreach v_role in array v_roles loop
        execute format('revoke all on schema %I from %I', current_schema(), v_role);
        begin
            execute format('drop role %I', v_role);
        exception when dependent_objects_still_exist then
            raise notice 'role % is kept: it still owns or may use something elsewhere', v_role;
        end;
    end loop;
end
$$;
