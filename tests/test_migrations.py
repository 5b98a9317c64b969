"""The migrations as a DBA meets them: dbmate and sqitch, up and down, schemas, names, rights."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import asyncpg
import pytest

from service import embedded, migrate
from tests import derive
from tests.conftest import Connection, needs

MIGRATIONS = sorted(migrate.MIGRATIONS.glob("*.sql"))
ROLES = ["biller", "listener", "operator", "owner", "reader", "server"]
AS_OWNER = """select set_config('search_path', format('%I, pg_temp', current_schema()), true),
                     set_config('role', role_name('owner'), true)"""
_numbers = itertools.count(1)
needs_sqitch = needs(shutil.which("sqitch"), "sqitch is not installed (Debian: sqitch and libdbd-pg-perl)")


class Empty(Protocol):
    """`await empty()` makes an empty database and returns its URL."""

    async def __call__(self, name: str | None = None, template: str = "template1") -> str: ...


@pytest.fixture
async def empty(cluster: embedded.Server) -> AsyncIterator[Empty]:
    """Empty databases; dropped afterwards with whatever roles the test left."""
    names: list[str] = []

    async def make(name: str | None = None, template: str = "template1") -> str:
        names.append(name or f"migrations_{next(_numbers)}")
        await admin.execute(f"create database {ident(names[-1])} template {template}")
        return cluster.url_of(names[-1])

    async with session(cluster.url_of("postgres")) as admin:
        before = await roles(admin)
        yield make
        for name in names:
            await admin.execute(f"drop database if exists {ident(name)} with (force)")
        if left := await roles(admin) - before:
            await admin.execute(f"drop role {', '.join(map(ident, left))}")


@pytest.fixture(scope="module")
def by_sqitch(cluster: embedded.Server) -> Iterator[str]:
    """The URL of a database that sqitch deployed; tests clone it or only look."""

    async def execute(statement: str) -> None:
        async with session(cluster.url_of("postgres")) as admin:
            await admin.execute(statement)

    asyncio.run(execute("create database by_sqitch"))
    url = cluster.url_of("by_sqitch")
    sqitch(cluster, "deploy", url)
    yield url
    asyncio.run(execute("drop database by_sqitch with (force)"))


@contextlib.asynccontextmanager
async def session(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def database_of(url: str) -> str:
    return url.split("/", maxsplit=3)[3].partition("?")[0]


def in_schema(url: str, schema: str) -> str:
    """The URL with a schema: what libpq, asyncpg and dbmate all take."""
    options = "-csearch_path=" + re.sub(r"([\\ ])", r"\\\1", ident(schema))
    return f"{url}&options={quote(options, safe='')}"


def as_user(url: str, user: str) -> str:
    return url.replace("//postgres@", f"//{quote(user)}@")


async def roles(connection: Connection, like: str = "%") -> set[str]:
    return {
        row["rolname"] for row in await connection.fetch("select rolname from pg_roles where rolname like $1", like)
    }


def run(server: embedded.Server, *command: str, url: str = "", cwd: Path = derive.DB.parent) -> str:
    ended = derive.tool(server.bin_dir, *command, url=url, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def dbmate(server: embedded.Server, url: str, *arguments: str) -> str:
    return run(server, "dbmate", "--env-file", os.devnull, "--no-dump-schema", *arguments, url=url)


def all_down(server: embedded.Server, url: str) -> None:
    for _ in MIGRATIONS:
        dbmate(server, url, "down")


def target(url: str) -> str:
    return url.replace("postgresql:", "db:pg:")


def sqitch(server: embedded.Server, command: str, url: str, *arguments: str) -> str:
    return run(server, "sqitch", command, *arguments, target(url), cwd=derive.DB)


def dump(server: embedded.Server, url: str, *arguments: str) -> str:
    """What pg_dump says of the objects, with owners, privileges and comments; without the tools' own records."""
    return run(
        server, "pg_dump", "--schema-only", "--restrict-key=same", "--exclude-schema=sqitch*",
        "--exclude-table=*.schema_migrations", *arguments, url,
    )  # fmt: skip


def trace(server: embedded.Server, url: str) -> str:
    """Everything that a migration could leave behind: objects of the database, roles of the cluster, comments."""
    return dump(server, url) + run(server, "pg_dumpall", "--roles-only", "--restrict-key=same", "--dbname", url)


async def try_out(url: str) -> str:
    """Apply an event to an invoice of 100; returns the installation's wake channel."""
    async with session(url) as connection:
        await connection.execute("insert into invoices (id, amount, status) values (1, 100, 'sent')")
        result = await connection.fetchrow("select * from apply_payment_event('event_12345', 1, 60)")
        assert result is not None
        assert (result["outcome"], result["status"], result["due"]) == ("applied", "partially_paid", 40)
        return str(await connection.fetchval("select queue_channel()"))


async def test_up_down_up_leaves_no_trace_and_the_second_up_equals_the_first(
    cluster: embedded.Server, empty: Empty
) -> None:
    url = await empty()
    before = trace(cluster, url)
    dbmate(cluster, url, "up")
    first = trace(cluster, url)
    assert "CREATE FUNCTION public.apply_payment_event(" in first
    all_down(cluster, url)
    assert trace(cluster, url) == before
    dbmate(cluster, url, "up")
    assert trace(cluster, url) == first
    await try_out(url)


async def test_each_migration_goes_down_to_exactly_where_it_started(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    dbmate(cluster, url, "up")
    after: list[str] = []
    for _ in MIGRATIONS:
        dbmate(cluster, url, "down")
        after.append(trace(cluster, url))
    async with session(url) as connection:
        for migration in MIGRATIONS:
            assert trace(cluster, url) == after.pop(), f"before {migration.name}"
            await connection.execute(migration.read_text().split("-- migrate:down")[0])


async def test_the_tracked_settings_deploy_and_leave_the_checkout_as_it_is(
    cluster: embedded.Server, empty: Empty
) -> None:
    url = await empty()
    schema = derive.SCHEMA.read_bytes()
    run(cluster, "dbmate", "--env-file", "dbmate.env", "up", url=url)
    await try_out(url)
    assert derive.SCHEMA.read_bytes() == schema


def test_the_tracked_settings_hold_no_secret() -> None:
    lines = (derive.DB.parent / "dbmate.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert {name for name in settings if not name.startswith("DBMATE_")} == {"DATABASE_URL"}
    assert re.fullmatch(r"postgres://postgres@[^:@]+:5432/\w+\?sslmode=disable", settings["DATABASE_URL"])


@needs_sqitch
async def test_dbmate_and_sqitch_deploy_the_same_owners_and_privileges_included(
    cluster: embedded.Server, empty: Empty, by_sqitch: str
) -> None:
    url = await empty("by_dbmate")
    dbmate(cluster, url, "up")
    expected = dump(cluster, url)
    assert "GRANT ALL ON FUNCTION" in expected
    assert "OWNER TO by_dbmate_public_owner" in expected
    assert dump(cluster, by_sqitch) == expected.replace("by_dbmate", "by_sqitch")


@needs_sqitch
async def test_sqitch_verify_passes_and_then_names_exactly_what_is_missing(
    cluster: embedded.Server, empty: Empty, by_sqitch: str
) -> None:
    breaks = {
        r"table (\w+)": "drop table {} cascade",
        r"column (\w+)\.(\w+) .* not null": "alter table {} drop column {} cascade",
        r"constraint (\w+) on (\w+)": "alter table {1} drop constraint {0} cascade",
        r"index (\w+_idx)": "drop index {}",
        r"view (\w+)": "drop view {} cascade",
        r"type (\w+)": "drop type {} cascade",
        r"trigger (\w+) on (\w+)": "drop trigger {} on {}",
        r"trigger (\w+) on (\w+_queue)": "alter table {1} disable trigger {0}",
        r"function (.*\)) security definer": "drop function {} cascade",
        r"function (.*\)) security definer( *)": "alter function {} security invoker",
        r"grant execute on (.*) to (\w+)": "revoke execute on function {} from by_sqitch_public_{}",
    }
    url = await empty(template=database_of(by_sqitch))
    assert "Verify successful" in sqitch(cluster, "verify", url)
    async with session(url) as connection:
        before = now = await derive.objects(connection)
        for line, statement in breaks.items():  # the first object of each kind that is still there
            match = next(filter(None, (re.fullmatch(line, present) for present in now)))
            await connection.execute(statement.format(*match.groups()))
            now = await derive.objects(connection)
            assert match[0] not in now
    lost = set(before) - set(now)
    ended = derive.tool(cluster.bin_dir, "sqitch", "verify", target(url), cwd=derive.DB)
    assert ended.returncode != 0
    assert {line for line in ended.stderr.splitlines() if line in before} == lost


@needs_sqitch
async def test_sqitch_revert_leaves_no_trace(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    before = trace(cluster, url)
    sqitch(cluster, "deploy", url)
    await try_out(url)
    sqitch(cluster, "revert", url, "-y")
    assert trace(cluster, url) == before


@needs_sqitch
async def test_sqitch_deploys_into_the_schema_of_its_target(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    async with session(url) as connection:
        await connection.execute("create schema billing")
        billing = in_schema(url, "billing")
        sqitch(cluster, "deploy", billing, "--registry", "sqitch_billing")
        sqitch(cluster, "verify", billing, "--registry", "sqitch_billing")
        await try_out(billing)
        assert await connection.fetchval("select to_regclass('public.invoices') is null")


async def test_a_migration_that_cannot_be_read_is_not_taken_for_deployed(
    cluster: embedded.Server, empty: Empty
) -> None:
    url = await empty()
    psql = ["psql", "-Xv", "ON_ERROR_STOP=1", "-v", "change=none", "-f"]
    for part in ("up", "down"):
        ended = derive.tool(cluster.bin_dir, *psql, f"sqitch/{part}.sql", url, cwd=derive.DB)
        assert ended.returncode != 0
        assert 'syntax error at or near "cannot"' in ended.stderr


async def test_the_derived_files_are_what_the_migrations_say(tmp_path: Path) -> None:
    with embedded.start(tmp_path, settings={"fsync": "off"}) as newest:
        files = await derive.derived(newest)
    assert derive.present() == files.keys(), "run: python -m tests.derive"
    for path, text in files.items():
        assert path.read_text() == text, f"{path} is stale; run: python -m tests.derive"


async def test_the_schema_file_cannot_be_loaded(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    before = trace(cluster, url)
    load = ["dbmate", "--env-file", os.devnull, "--schema-file", str(derive.SCHEMA), "load"]
    assert "is for reading" in derive.tool(cluster.bin_dir, *load, url=url).stderr
    assert "is for reading" in derive.tool(cluster.bin_dir, "psql", "-f", str(derive.SCHEMA), url).stderr
    assert trace(cluster, url) == before


async def test_each_function_has_the_file_of_its_name(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    dbmate(cluster, url, "up")
    in_files = {
        path.stem: re.findall(r"^create or replace function (\w+)\(", path.read_text(), re.MULTILINE)
        for path in (derive.DB / "functions").iterdir()
    }
    assert in_files == {name: [name] for name in in_files}
    of_the_roles = re.findall(r"^create function (\w+)\(", MIGRATIONS[0].read_text(), re.MULTILINE)
    async with session(url) as connection:
        rows = await connection.fetch("select proname from pg_proc where pronamespace = 'public'::regnamespace")
    assert sorted(row["proname"] for row in rows) == sorted([*in_files, *of_the_roles])


async def test_a_database_says_that_it_stands_at_the_newest_migration(db: Connection) -> None:
    assert await db.fetchval("select schema_version()") == migrate.newest_version()


async def test_the_functions_replay_over_a_migrated_database_without_a_difference(
    cluster: embedded.Server, empty: Empty
) -> None:
    url = await empty()
    dbmate(cluster, url, "up")
    expected = dump(cluster, url)
    files = sorted((derive.DB / "functions").iterdir())
    async with session(url) as connection, connection.transaction():
        await connection.execute(AS_OWNER)
        for path in files:  # whatever a file forgets to say would now be missing
            await connection.execute(f"comment on function {path.stem} is null")
            for role in ROLES:
                await connection.execute(f"select grant_to('{role}', 'execute on function {path.stem}')")
                if role != "owner":
                    name = await connection.fetchval("select quote_ident(role_name($1))", role)
                    await connection.execute(f"revoke execute on function {path.stem} from {name}")
            await connection.execute(f"grant execute on function {path.stem} to public")
        for path in files:
            await connection.execute(path.read_text())
    assert sorted(dump(cluster, url).splitlines()) == sorted(expected.splitlines())


async def test_two_databases_of_a_cluster_migrate_and_go_down_apart(cluster: embedded.Server, empty: Empty) -> None:
    one, other = await empty(), await empty()
    dbmate(cluster, one, "up")
    expected = dump(cluster, one)
    dbmate(cluster, other, "up")
    await try_out(other)
    all_down(cluster, other)
    assert dump(cluster, one) == expected
    await try_out(one)


async def test_two_schemas_of_a_database_live_apart_by_nothing_but_the_url(
    cluster: embedded.Server, empty: Empty
) -> None:
    url = await empty()
    billing = in_schema(url, "billing")
    async with session(url) as connection:
        await connection.execute("create schema billing")
        dbmate(cluster, billing, "up")
        assert await connection.fetchval("select to_regclass('public.invoices') is null")
        dbmate(cluster, url, "up")
        assert await try_out(billing) != await try_out(url)
        for schema in ("public", "billing"):
            await connection.execute(f"set search_path = {schema}")
            assert await connection.fetchval("select count(*) from schema_migrations") == len(MIGRATIONS)
            assert await connection.fetchval("select count(*) from payments") == 1
        psql = ["psql", "-XAtc", "select outcome, paid from apply_payment_event('event_2', 1, 40)"]
        assert run(cluster, *psql, billing) == run(cluster, *psql, url) == "applied|100\n"

        expected = dump(cluster, url, "--schema=public")
        all_down(cluster, billing)
        assert dump(cluster, url, "--schema=public") == expected
        name = await connection.fetchval("select current_database()")
        assert await roles(connection, f"{name}_billing_%") == set()


async def test_no_role_of_one_schema_may_do_anything_in_another(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    async with session(url) as connection:
        for schema in ("billing", "shop"):
            await connection.execute(f"create schema {schema}")
            dbmate(cluster, in_schema(url, schema), "up")
        for role in ROLES:
            name = await connection.fetchval("select billing.role_name($1)", role)
            for object_of in ("select * from shop.invoices", "select shop.queue_channel()"):
                async with connection.transaction():
                    await connection.execute(f"set local role {name}")
                    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="schema shop"):
                        async with connection.transaction():
                            await connection.execute(object_of)
            granted = """
                select p.oid::regprocedure::text from pg_proc p
                where pronamespace = 'shop'::regnamespace and has_function_privilege($1, p.oid, 'execute')
                union all
                select c.oid::regclass::text from pg_class c
                where relnamespace = 'shop'::regnamespace and relkind in ('r', 'v', 'S')
                  and has_table_privilege($1, c.oid, 'select, insert, update, delete, truncate, references, trigger')"""
            assert await connection.fetch(granted, name) == []


async def test_it_installs_beside_a_merchants_own_objects_and_leaves_them_alone(
    cluster: embedded.Server, empty: Empty
) -> None:
    url = await empty()
    async with session(url) as connection:
        await connection.execute("""
            create table customers (id bigint primary key, name text);
            create view named_customers as select * from customers where name is not null;
            create function touch() returns trigger language plpgsql as 'begin return new; end';
            create trigger customers_touch before insert on customers for each row execute function touch();
            alter default privileges grant select on tables to public;
            create role merchant login;
            grant select, insert on customers to merchant;
        """)
        before = trace(cluster, url)
        dbmate(cluster, url, "up")
        await try_out(url)
        await connection.execute("set role merchant; insert into customers values (1, 'a'); reset role")
        assert await connection.fetchval("select not has_table_privilege('merchant', 'invoices', 'select')")
        all_down(cluster, url)
        assert trace(cluster, url) == before


async def test_many_at_once_in_two_schemas_are_all_fine(empty: Empty) -> None:
    url = await empty()
    billing = in_schema(url, "billing")
    await asyncio.gather(*(migrate.up(one) for one in (url, billing, url, billing)))
    assert await try_out(url) != await try_out(billing)


@pytest.mark.parametrize(
    ("database", "schema"),
    [
        ("My-Shop", "public"),
        ("my shop", "Bill ing"),
        ('quo"te', "it's"),
        ("café", "facturación"),
        ("d" * 63, "public"),
        ("é" * 31, "s" * 63),
        ("order", "a_schema_name_as_long_as_they_come"),
    ],
)
async def test_any_name_of_database_and_schema_will_do(
    cluster: embedded.Server, empty: Empty, database: str, schema: str
) -> None:
    url = in_schema(await empty(database), schema)
    async with session(cluster.url_of(database)) as connection:
        await connection.execute(f"create schema if not exists {ident(schema)}")
        before = await roles(connection)
        dbmate(cluster, url, "up")
        await try_out(url)
        made = await roles(connection) - before
        assert sorted(name.rsplit("_", 1)[1] for name in made) == ROLES
        all_down(cluster, url)
        assert await roles(connection) == before


@pytest.mark.parametrize("user", ["migrator", "My-Migrator"])
async def test_a_user_with_createrole_migrates_up_and_down(cluster: embedded.Server, empty: Empty, user: str) -> None:
    url = await empty()
    async with session(url) as connection:
        await connection.execute(f"create role {ident(user)} login createrole")
        await connection.execute(f"create schema billing authorization {ident(user)}")
        await connection.execute(f"alter database {database_of(url)} owner to {ident(user)}")
    before = trace(cluster, url)
    for own in (as_user(url, user), in_schema(as_user(url, user), "billing")):
        dbmate(cluster, own, "up")
        await try_out(url if own == as_user(url, user) else in_schema(url, "billing"))
        all_down(cluster, own)
        assert trace(cluster, url) == before


async def test_down_keeps_a_role_that_still_holds_something_elsewhere(cluster: embedded.Server, empty: Empty) -> None:
    url = await empty()
    dbmate(cluster, url, "up")
    async with session(url) as connection:
        reader = await connection.fetchval("select role_name('reader')")
        await connection.execute(f"create table report (total bigint); grant select on report to {reader}")
        all_down(cluster, url)
        assert await roles(connection, "%_public_%") >= {reader}
        assert not await connection.fetchval("select has_schema_privilege($1, 'public', 'create')", reader)
    dbmate(cluster, url, "up")
    await try_out(url)


async def test_a_database_under_the_name_of_a_renamed_one_does_not_get_that_ones_roles(empty: Empty) -> None:
    url = await empty()
    await migrate.up(url)
    database = database_of(url)
    async with session(url.replace(f"/{database}", "/postgres")) as admin:
        await admin.execute(f"alter database {database} rename to {database}_before")
        try:
            await admin.execute(f"create database {database}")
            with pytest.raises(migrate.MigrationError, match="PW009"):
                await migrate.up(url)
            await admin.execute(f"drop database {database}")
        finally:
            await admin.execute(f"alter database {database}_before rename to {database}")


async def test_a_database_that_is_not_utf_8_is_refused(empty: Empty) -> None:
    url = await empty()
    database = database_of(url)
    async with session(url.replace(f"/{database}", "/postgres")) as admin:
        await admin.execute(f"drop database {database}")
        await admin.execute(
            f"create database {database} template template0 encoding LATIN1 lc_collate 'C' lc_ctype 'C'"
            " locale_provider libc"
        )
    with pytest.raises(migrate.MigrationError, match="encoding of database"):
        await migrate.up(url)


@pytest.mark.parametrize(
    ("setup", "user", "message", "cure"),
    [
        ("grant create on schema public to public", "postgres",
         'PUBLIC may create objects in schema "public"', "revoke create on schema public from PUBLIC"),
        ('create role "A stranger"; grant create on schema public to "A stranger"', "postgres",
         '"A stranger" may create objects', 'revoke create on schema public from "A stranger"'),
        ("create role {0}_public_owner", "postgres",
         'role "{0}_public_owner" exists and is not of this installation', "Rename that role"),
        (("create role migrator login createrole noinherit; create schema own authorization migrator; "
          "alter role migrator set search_path = own"), "migrator",
         'role "migrator" does not inherit', "alter role migrator inherit"),
        ("create role migrator login createrole; grant all on schema public to migrator", "migrator",
         'role "migrator" cannot give', "Migrate as the owner"),
        ("alter database {0} set search_path = nowhere", "postgres",
         'search_path is "nowhere"', "create schema billing"),
    ],
)  # fmt: skip
async def test_where_it_cannot_be_safe_it_refuses_and_tells_what_to_do(
    cluster: embedded.Server, empty: Empty, *, setup: str, user: str, message: str, cure: str
) -> None:
    url = await empty()
    database = database_of(url)
    async with session(url) as connection:
        await connection.execute(setup.format(database))
        before = await roles(connection)
        async with session(as_user(url, user)) as refused:
            with pytest.raises(asyncpg.PostgresError, match=re.escape(message.format(database))) as caught:
                await refused.execute(MIGRATIONS[0].read_text().split("-- migrate:down")[0])
        assert caught.value.sqlstate == "PW009"
        hint = str(caught.value.hint)
        assert cure in hint
        assert await roles(connection) == before
        ended = derive.tool(
            cluster.bin_dir, "dbmate", "--env-file", os.devnull, "--no-dump-schema", "up", url=as_user(url, user)
        )
        assert message.format(database) in ended.stderr
        if hint.startswith(("revoke", "alter")):
            await connection.execute(cure)
            dbmate(cluster, as_user(url, user), "up")
            await try_out(as_user(url, user))
