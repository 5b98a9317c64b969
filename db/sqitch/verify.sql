-- Fails with the names of what is missing. Its caller has opened a transaction and filled temp table expected (object text).
do $$
begin
    perform set_config('search_path', quote_ident(current_schema()), true);    -- names are relative to it
end
$$;
create temp view present (object) as
with relation as (
    select *, oid::regclass::text as name from pg_class where relnamespace = quote_ident(current_schema())::regnamespace
), function as (
    select *, oid::regprocedure::text as name from pg_proc where pronamespace = quote_ident(current_schema())::regnamespace
), role as (
    select r.oid, substr(r.rolname, length(p.name)) as name
    from pg_roles r, (select regexp_replace(pg_get_userbyid(proowner), 'owner$', '.') as name from function where proname = 'role_name') p
    where starts_with(r.rolname, left(p.name, -1))
)
select 'role ' || name from role
union all
select concat(case relkind when 'v' then 'view ' when 'c' then 'type ' when 'S' then 'sequence ' else 'table ' end, name)
from relation where relkind not in ('i', 'I')
union all
select concat('column ', r.name, '.', quote_ident(attname), ' ', format_type(atttypid, atttypmod), case when attnotnull then ' not null' end)
from pg_attribute join relation r on r.oid = attrelid
where relkind in ('r', 'v', 'c') and attnum > 0 and not attisdropped
union all
select format('constraint %I on %s', conname, name)
from pg_constraint join relation r on r.oid = conrelid where contype <> 'n' and convalidated
union all
select 'index ' || name from relation join pg_index on indexrelid = oid where indisvalid
union all
select format('trigger %I on %s', tgname, name)
from pg_trigger join relation r on r.oid = tgrelid where not tgisinternal and tgenabled in ('O', 'A')
union all
select concat('function ', name, case when prosecdef then ' security definer' end) from function
union all
select format('grant %s on %s to %s', lower(privilege_type), g.name, r.name)
from (select name, proowner as owner, proacl as acl from function
      union all
      select name, relowner, relacl from relation
      union all
      select format('%s (%I)', name, attname), relowner, attacl from relation r join pg_attribute on attrelid = r.oid) g,
     aclexplode(g.acl) a join role r on r.oid = a.grantee
where a.grantee <> g.owner;
do $$
declare
    v_missing text := (select string_agg(object, E'\n' order by object collate "C")
                       from (select object from expected except select object from present) m);
begin
    if v_missing is not null then
        raise exception E'missing in schema %:\n%', current_schema(), v_missing;
    end if;
end
$$;
