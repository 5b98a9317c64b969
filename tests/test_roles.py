"""What each role may do is exactly what the tables below say, tried by real logins; what nobody may do, nobody can."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from typing import Protocol
from urllib.parse import quote

import asyncpg
import pytest

from service import embedded, migrate
from tests import calls, sessions
from tests.calls import Event
from tests.conftest import Connect, Connection

# Every privilege of every role. A new one belongs in here, or it is a mistake.
VIEWS = [
    "dead_letter_reasons", "event_rates", "invoice_balances", "listener_states", "open_dead_letters",
    "payment_event_states", "queue_health", "waiting_events",
]  # fmt: skip
TABLES = [
    "dead_letters", "deliveries", "invoice_references", "invoices", "listeners", "operator_actions", "parked_events",
    "parked_references", "payment_events", "payment_queue", "payment_reports", "payments", "reassigned_events",
]  # fmt: skip
APPEND_ONLY = ["operator_actions", "payment_events", "payment_reports", "payments"]
PRIVILEGES = {
    "server": {
        "usage": ["schema"],
        "execute": [
            "apply_payment_event", "apply_payment_events", "claim_unfetched_delivery", "close_fetched_delivery",
            "enqueue_payment_event", "enqueue_payment_events", "link_invoice_reference", "schema_version",
            "store_dead_letter",
        ],
    },
    "listener": {
        "usage": ["schema"],
        "execute": [
            "claim_payment_events", "close_queue_gate", "fail_payment_event", "look_at_parked_events",
            "open_queue_gate", "process_claimed_events", "process_payment_queue", "queue_channel", "report_listener",
            "schema_version", "seconds_to_next_retry", "try_queue_watch",
        ],
        "select": ["queue_health"],
    },
    "biller": {
        "usage": ["schema"],
        "select": ["invoice_references", "invoices"],
        "insert": [
            "invoice_references.connection", "invoice_references.invoice_id", "invoice_references.reference",
            "invoices.amount", "invoices.currency", "invoices.id", "invoices.status",
        ],
        "update": ["invoices.amount"],
        "delete": ["invoice_references"],
    },
    "operator": {
        "usage": ["schema"],
        "execute": [
            "dismiss_dead_letter", "dismiss_dead_letters", "find_named_invoices", "find_payment_events",
            "import_dead_letter", "import_invoice_reference", "import_payment_events", "invoice_discrepancies",
            "invoice_timeline", "misplaced_events", "prune_deliveries", "queue_channel", "reassign_dead_letter",
            "retry_dead_letter", "retry_dead_letters", "schema_version", "void_payment",
        ],
        "select": sorted(TABLES + VIEWS),
    },
    "reader": {
        "usage": ["schema"],
        "execute": ["find_named_invoices", "find_payment_events", "invoice_timeline", "schema_version"],
        "select": VIEWS,
    },
}  # fmt: skip
LOGINS = list(PRIVILEGES)

GRANTS = """
    with object (name, owner, acl) as (
        select 'schema', n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
        from pg_namespace n where n.nspname = current_schema()
        union all
        select c.relname, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
        from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
        union all
        select c.relname, c.relowner, coalesce(c.relacl, acldefault('s', c.relowner))
        from pg_class c where c.relnamespace = current_schema()::regnamespace and c.relkind = 'S'
        union all
        select c.relname || '.' || a.attname, c.relowner, a.attacl
        from pg_class c join pg_attribute a on a.attrelid = c.oid where c.relnamespace = current_schema()::regnamespace
        union all
        select p.proname, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        from pg_proc p where p.pronamespace = current_schema()::regnamespace
        union all
        select 'type ' || t.typname, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
        from pg_type t
        where t.typnamespace = current_schema()::regnamespace and t.typcategory <> 'A' and t.typrelid <> coalesce(
            to_regclass('schema_migrations'), 0)    -- dbmate's own
    )
    select case when a.grantee = 0 then 'PUBLIC' else pg_get_userbyid(a.grantee) end as grantee,
           lower(a.privilege_type) || case when a.is_grantable then ' with grant option' else '' end as privilege,
           o.name as object
    from object o, aclexplode(o.acl) a
    where a.grantee <> o.owner
    order by o.name
"""


class Login(Protocol):
    """`await login("server")` connects as an ordinary user who is a member of that role and of nothing else."""

    async def __call__(self, role: str) -> Connection: ...


@pytest.fixture(scope="module")
def users(cluster: embedded.Server, template: str) -> Iterator[Callable[[str], str]]:
    """The name of a login for each role; the roles of the template are those of its clones."""

    def name(role: str) -> str:
        return f"a_{role}"

    async def each(statement: str) -> None:
        db = await asyncpg.connect(cluster.url_of("postgres"))
        try:
            for role in LOGINS:
                await db.execute(statement.format(user=name(role), role=f"{template}_public_{role}"))
        finally:
            await db.close()

    asyncio.run(each("create role {user} login in role {role}"))
    yield name
    asyncio.run(each("drop role {user}"))


@pytest.fixture
def login(users: Callable[[str], str], connect: Connect) -> Login:
    async def login(role: str) -> Connection:
        return await connect(user=users(role))

    return login


async def sqlstate(connection: Connection, statement: str) -> str | None:
    """The SQLSTATE that a statement raises, None when it succeeds; either way it is rolled back."""
    await connection.execute("begin")
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return error.sqlstate
    finally:
        await connection.execute("rollback")
    return None


REFUSED = "42501"  # insufficient_privilege


async def granted(db: Connection) -> dict[str, dict[str, list[str]]]:
    """Privilege by privilege, what each grantee holds on objects of others in the current schema."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in await db.fetch(GRANTS):
        found[row["grantee"]][row["privilege"]].append(row["object"])
    return {grantee: {what: sorted(objects) for what, objects in held.items()} for grantee, held in found.items()}


async def columns(db: Connection) -> dict[str, str]:
    """The first column of each table and view."""
    rows = await db.fetch(
        "select table_name, column_name from information_schema.columns"
        " where table_schema = current_schema() and ordinal_position = 1 and table_name <> 'schema_migrations'"
    )
    return {row["table_name"]: row["column_name"] for row in rows}


# The whole of it


async def test_each_role_holds_exactly_the_privileges_listed_here(db: Connection) -> None:
    names = {role: await db.fetchval("select role_name($1)", role) for role in [*LOGINS, "owner"]}
    found = await granted(db)
    assert {role: found.get(names[role], {}) for role in LOGINS} == PRIVILEGES
    strangers = found.keys() - names.values()
    assert strangers <= {"PUBLIC"}
    assert found[names["owner"]] == {"create": ["schema"], "usage": ["schema"]}  # and what it owns
    assert await db.fetch("select from pg_default_acl") == []


async def test_the_tables_and_functions_here_are_all_there_are_and_belong_to_the_owner(db: Connection) -> None:
    assert sorted(await columns(db)) == sorted(TABLES + VIEWS)
    owner = await db.fetchval("select role_name('owner')")
    owners = await db.fetch("""
        select distinct pg_get_userbyid(o.owner) as owner from (
            select c.relowner as owner from pg_class c
            where c.relnamespace = current_schema()::regnamespace and c.relname !~ '^schema_migrations'
            union all select p.proowner from pg_proc p where p.pronamespace = current_schema()::regnamespace
        ) o
    """)
    assert [row["owner"] for row in owners] == [owner]


async def test_nothing_is_granted_to_public(db: Connection) -> None:
    assert (await granted(db)).get("PUBLIC", {}) == {"usage": ["schema"]}  # schema public is everybody's to use


async def test_nothing_is_granted_to_public_in_a_schema_of_its_own(database_url: str) -> None:
    url = f"{database_url}&options={quote('-csearch_path=billing')}"
    await migrate.up(url)
    db = await asyncpg.connect(url)
    try:
        assert await db.fetchval("select current_schema()") == "billing"
        assert (await granted(db)).get("PUBLIC", {}) == {}
    finally:
        await db.close()


async def test_nobody_can_log_in_as_a_role_itself_and_none_has_an_attribute_or_is_a_member(
    db: Connection, connect: Connect
) -> None:
    names = [await db.fetchval("select role_name($1)", role) for role in [*LOGINS, "owner"]]
    rows = await db.fetch(
        "select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls as any"
        " from pg_roles where rolname = any($1)",
        names,
    )
    assert [row["any"] for row in rows] == [False] * 6
    assert await db.fetch("select from pg_auth_members where pg_get_userbyid(member) = any($1)", names) == []
    for name in names:
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="not permitted to log in"):
            await connect(user=name)


async def test_each_function_that_a_role_may_call_runs_as_the_owner_on_a_pinned_path_ending_in_pg_temp(
    db: Connection,
) -> None:
    rows = await db.fetch("""
        select p.proname, p.prosecdef, l.lanname,
               (select split_part(s, '=', 2) from unnest(p.proconfig) s where s ~ '^search_path=') as path,
               p.prorettype = 'trigger'::regtype as is_trigger
        from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace = current_schema()::regnamespace
    """)
    callable_ = {name for held in PRIVILEGES.values() for name in held.get("execute", [])}
    assert callable_ <= {row["proname"] for row in rows}
    for row in rows:
        assert row["proname"] not in callable_ or row["prosecdef"], row
        assert row["path"] == "public, pg_temp" or (row["lanname"] == "sql" and not row["prosecdef"]), row


# Tried, one by one

ATTEMPTS = {
    "select": "select {column} from {relation}",
    "insert": "insert into {relation} ({column}) values (null)",
    "update": "update {relation} set {column} = null",
    "delete": "delete from {relation}",
    "truncate": "truncate {relation}",
    "trigger": "create trigger t after insert on {relation} execute function refuse_change()",
}


async def test_each_role_is_refused_every_table_and_view_but_those_listed(db: Connection, login: Login) -> None:
    for role in LOGINS:
        user, held = await login(role), PRIVILEGES[role]
        for relation, column in (await columns(db)).items():
            for privilege, attempt in ATTEMPTS.items():
                allowed = {relation, f"{relation}.{column}"} & set(held.get(privilege, []))
                state = await sqlstate(user, attempt.format(relation=relation, column=column))
                refused = {REFUSED, "42809", "55000"} if relation in VIEWS else {REFUSED}  # "is no table", "cannot"
                assert (state not in refused) == bool(allowed), (role, privilege, relation)


async def test_each_role_is_refused_every_function_but_those_listed(db: Connection, login: Login) -> None:
    functions = await db.fetch("""
        select p.proname as name,
               format('select %I(%s)', p.proname, (select string_agg('null::' || format_type(t, null), ', ' order by n)
                                                    from unnest(p.proargtypes) with ordinality a(t, n))) as call
        from pg_proc p where p.pronamespace = current_schema()::regnamespace
    """)
    assert len(functions) > 50
    for role in LOGINS:
        user = await login(role)
        for name, call in functions:
            allowed = name in PRIVILEGES[role].get("execute", [])
            assert (await sqlstate(user, call) != REFUSED) == allowed, (role, call)


async def test_each_role_is_refused_what_only_an_owner_or_superuser_may(db: Connection, login: Login) -> None:
    owner = await db.fetchval("select role_name('owner')")
    for role in LOGINS:
        user = await login(role)
        for statement in [
            "create table mine ()",
            "create function mine() returns int language sql return 1",
            "create operator = (leftarg = text, rightarg = text, function = texteq)",
            "create type mine as enum ('mine')",
            "drop table payments cascade",
            "drop trigger payments_append_only on payments",
            "alter table payments disable trigger all",
            "alter table payments add column mine int",
            "alter function refuse_change() rename to refuse",
            "create or replace function refuse_change() returns trigger language plpgsql as 'begin return new; end'",
            "lock table payments in access exclusive mode",
            "set session_replication_role = replica",
            f"set role {owner}",
            f"grant {owner} to {await user.fetchval('select session_user')}",
            "create schema mine",
            "comment on table payments is 'mine'",
        ]:
            assert await sqlstate(user, statement) == REFUSED, (role, statement)
        assert await sqlstate(user, "select setval('payment_events_id_seq', 1)") == REFUSED


# What each is for


async def test_the_server_applies_enqueues_and_keeps_dead_letters(db: Connection, login: Login) -> None:
    await calls.add_invoice(db, 1)
    server = await login("server")
    events = [Event(f"e{n}", 1, 100, body=b"{}", content_type="application/json") for n in range(4)]
    assert (await calls.apply(server, events[0]))["paid"] == 100
    assert calls.outcomes(await calls.apply_all(server, [events[1], Event("e0", 1, 900, body=b"{}")])) == [
        "applied", "conflict",
    ]  # fmt: skip
    assert (await calls.enqueue(server, events[2]))["outcome"] == "queued"
    assert calls.outcomes(await calls.enqueue_all(server, [events[3]])) == ["queued"]
    assert (await calls.apply(server, Event("parked", 2), park=True))["outcome"] == "parked"
    assert await server.fetchval("select store_dead_letter('stripe', 'unreadable', 'no JSON', 'x')") is not None
    letter = await server.fetchval("select store_dead_letter('gocardless', 'not_fetched', 'no answer', '{}')")
    await db.execute("update dead_letters set died_at = died_at - interval '5 s' where id = $1", letter)
    assert await server.fetchval("select letter_id from claim_unfetched_delivery('gocardless')") == letter
    await server.execute("select close_fetched_delivery($1)", letter)
    assert await server.fetchval("select link_invoice_reference('stripe', 'in_1', 1)") == "linked"
    assert await server.fetchval("select link_invoice_reference('stripe', 'in_2', 2)") == "parked"
    await sessions.assert_right(db)
    assert await sessions.paid(db) == 400


async def test_the_listener_applies_nothing_that_is_not_queued_or_that_another_has_claimed(
    db: Connection, login: Login, connect: Connect
) -> None:
    await db.execute("insert into invoices (id, amount) values (1, 10000)")
    await db.execute("select enqueue_payment_event('euros', 1, 900, p_currency => 'EUR', p_park => true)")
    await db.execute("select process_payment_queue()")
    await db.execute("select dismiss_dead_letter(id, 'never post') from open_dead_letters")
    await db.execute("update invoices set currency = 'EUR'")
    await db.execute("select enqueue_payment_event('claimed', 1, 5, p_park => true)")
    listener, other = await login("listener"), await connect()
    ids = await db.fetchval("select array_agg(id) from payment_events")
    async with other.transaction():
        await other.execute("select claim_payment_events()")
        assert await listener.fetchval("select claimed from process_claimed_events($1)", ids) == 0
    assert await listener.fetchval("select applied from process_claimed_events($1)", ids) == 1
    assert await db.fetchval("select amount_paid from invoices") == 5
    assert await db.fetch("select * from misplaced_events()") == []


async def test_the_listener_watches_sleeps_and_works(db: Connection, login: Login) -> None:
    await calls.add_invoice(db, 1)
    listener, heard = await login("listener"), asyncio.Event()
    await listener.add_listener(await listener.fetchval("select queue_channel()"), lambda *_: heard.set())
    assert await listener.fetchval("select try_queue_watch()")
    assert await listener.fetchval("select close_queue_gate()")
    await calls.enqueue_all(db, [Event("e1", 1), Event("e2", 1)])
    await asyncio.wait_for(heard.wait(), sessions.PATIENCE)
    assert await listener.fetchval("select open_queue_gate()")
    assert await listener.fetchval("select queued from queue_health") == 2
    async with listener.transaction():
        claimed = await listener.fetchval("select claim_payment_events(1)")
        await listener.fetch("select * from process_claimed_events($1)", claimed)
    assert (await calls.process(listener))["applied"] == 1
    assert await listener.fetchval("select fail_payment_event(0, 'gone')") is False
    await sessions.assert_right(db)


async def test_the_biller_inserts_invoices_and_their_names_and_releases_what_waits_for_them(
    db: Connection, login: Login
) -> None:
    await calls.apply(db, Event("e1", 1, 5000), park=True)
    await calls.apply(db, Event("e2", None, 700, invoice_reference="INV-1"), park=True)
    await db.execute("select link_invoice_reference('stripe', 'pi_1', p_invoice_reference => 'in_1')")
    await db.execute("select link_invoice_reference('stripe', 'in_1', 1)")
    biller = await login("biller")
    await biller.execute("insert into invoices (id, amount, status) values (1, 10000, 'sent')")
    await biller.execute(
        "insert into invoice_references (connection, reference, invoice_id) values ('direct', 'INV-1', 1)"
    )
    await biller.copy_records_to_table("invoices", records=[(2, 100, "EUR")], columns=["id", "amount", "currency"])
    assert await calls.counts(db, "parked_events", "payment_queue") == [0, 2]
    assert await biller.fetchval("select count(*) from invoice_references where invoice_id = 1") == 3
    await sessions.assert_right(db)
    await biller.execute("update invoices set amount = 5700 where id = 1")
    assert await biller.fetchval("select status from invoices where id = 1") == "paid"
    await biller.execute("delete from invoice_references where reference = 'INV-1'")


async def test_the_biller_can_set_neither_sums_nor_status_nor_take_an_invoice_back(
    db: Connection, login: Login
) -> None:
    await calls.add_invoice(db, 1)
    await calls.apply(db, Event("e1", 1, 5000))
    biller = await login("biller")
    for statement in [
        "update invoices set amount_paid = 0",
        "update invoices set status = 'paid'",
        "update invoices set currency = 'EUR'",
        "update invoices set id = 2",
        "insert into invoices (id, amount, amount_paid) values (2, 100, 100)",
        "insert into invoices (id, amount) values (1, 1) on conflict (id) do update set status = 'paid'",
        "delete from invoices",
        "select apply_payment_event('e2', 1, 100)",
        "insert into payments (id, invoice_id, amount, connection, kind) values (9, 1, 1, 'direct', 'payment')",
        "insert into payment_queue (id) values (1)",
    ]:
        assert await sqlstate(biller, statement) == REFUSED, statement
    assert await sqlstate(biller, "insert into invoices (id, amount, status) values (2, 100, 'paid')") == "23514"
    assert await sqlstate(biller, "insert into invoices (id, amount, status) values (2, 100, 'mine')") == "23514"
    assert await sqlstate(biller, "insert into invoice_references values ('direct', 'INV-9', 9)") == "23503"
    assert await calls.balance(db, 1) == ("partially_paid", 5000, 0, 0)


async def test_the_operator_resolves_voids_and_checks_and_is_named_in_the_trace(db: Connection, login: Login) -> None:
    await calls.add_invoice(db, 1)
    await calls.add_invoice(db, 2)
    await calls.apply(db, Event("e1", 1, 5000, reference="ch_1", body=b"{}"))
    for n in range(5):
        await calls.apply(db, Event(f"conflict-{n}", 1, 100, reference="ch_1"))
    operator = await login("operator")
    ids = [row["id"] for row in await operator.fetch("select id from open_dead_letters order by id")]
    await operator.fetch("select dismiss_dead_letter($1)", ids[0])
    await operator.fetch("select retry_dead_letter($1)", ids[1])
    await operator.fetch("select reassign_dead_letter($1, 2)", ids[2])
    assert await operator.fetchval("select dismiss_dead_letters('conflict', 1)") == 1
    assert await operator.fetchval("select retry_dead_letters('conflict')") == 1
    assert await operator.fetchval("select outcome from void_payment('direct', 'e1')") == "applied"
    assert await operator.fetchval("select count(*) from invoice_timeline(1)") >= 2
    assert await operator.fetch("select * from misplaced_events()") == []
    assert await operator.fetch("select * from invoice_discrepancies()") == []
    assert await operator.fetchval("select body from deliveries") == b"{}"
    assert await operator.fetchval("select prune_deliveries('0 s')") == 1
    actions = await operator.fetch("select actor, action from operator_actions order by id")
    assert [tuple(row) for row in actions] == [
        ("a_operator", action)
        for action in ("dismissed", "retried", "reassigned", "dismissed", "retried", "voided", "pruned")
    ]
    await sessions.assert_right(db)


async def test_the_reader_sees_the_views_and_no_body(db: Connection, login: Login) -> None:
    await calls.add_invoice(db, 1)
    await calls.apply(db, Event("e1", 1, 5000, body=b"a secret"))
    await calls.apply(db, Event("e2", 2, 5000, body=b"a secret"), park=True)
    await calls.apply(db, Event("e1", 1, 4000, body=b"a secret"))
    await db.execute("select store_dead_letter('direct', 'unreadable', 'no JSON', 'a secret')")
    await db.execute("select report_listener('host:1', '5 s', true)")
    reader = await login("reader")
    for view in VIEWS:
        rows = await reader.fetch(f"select t::text as all, t.* from {view} t")  # noqa: S608
        assert rows, view
        assert "secret" not in str(rows), view
        assert b"a secret".hex() not in str(rows), view
        assert not any(isinstance(value, bytes) for row in rows for value in row), view
    assert await reader.fetchval("select count(*) from invoice_timeline(1)") == 1


# What nobody can

CHANGES = [
    "update {table} set id = id",
    "update {table} set id = id where false",
    "delete from {table}",
    "delete from {table} where false",
    "truncate {table}",
    "insert into {table} overriding system value select * from {table} on conflict (id) do update set id = excluded.id",
    "merge into {table} t using {table} s on s.id = t.id when matched then delete",
    "with gone as (delete from {table} returning id) select * from gone",
]


async def test_ledger_and_event_rows_refuse_every_change_from_the_owner_and_the_superuser(
    db: Connection, connect: Connect
) -> None:
    await calls.add_invoice(db, 1)
    await calls.apply(db, Event("e1", 1, 5000, reference="ch_1"))
    await calls.apply(db, Event("e2", 1, 5000, reference="ch_1"))
    await db.execute("select void_payment('direct', 'e1')")
    before = await calls.counts(db, *APPEND_ONLY)
    assert all(before)
    for who in (await connect("owner"), await connect()):
        for table in APPEND_ONLY:
            for change in CHANGES:
                assert await sqlstate(who, change.format(table=table)) == "PW005", (table, change)
        assert await sqlstate(who, "truncate invoices cascade") == "PW005"
        assert await sqlstate(who, "delete from invoices") == "23503"
    assert await calls.counts(db, *APPEND_ONLY) == before


async def test_each_login_is_refused_every_change_of_ledger_and_event_rows(login: Login) -> None:
    for role in LOGINS:
        user = await login(role)
        for table in APPEND_ONLY:
            for change in CHANGES:
                assert await sqlstate(user, change.format(table=table)) == REFUSED, (role, table, change)


async def test_nobody_makes_status_disagree_with_the_sums_or_sets_sums_by_hand(
    db: Connection, connect: Connect
) -> None:
    await calls.add_invoice(db, 1)
    await calls.apply(db, Event("e1", 1, 5000))
    owner, superuser = await connect("owner"), await connect()
    set_status, set_sum = "update invoices set status = '{}'", "update invoices set {0} = {0} where false"
    for who in (owner, superuser):
        for status in ("sent", "paid", "refunded", "partially_refunded", "charged_back", "nonsense"):
            assert await sqlstate(who, set_status.format(status)) == "23514", status
        assert await sqlstate(who, "update invoices set amount = 5000, status = 'sent'") is None  # recomputed: paid
        assert await sqlstate(who, "insert into invoices (id, amount, status) values (2, 1, 'paid')") == "23514"
        assert await sqlstate(who, "insert into invoices (id, amount, amount_paid) values (2, 1, 1)") == "PW006"
    for column in ("amount_paid", "amount_refunded", "amount_charged_back"):
        assert await sqlstate(superuser, set_sum.format(column)) == "PW006", column
    assert await sqlstate(superuser, "update invoices set amount_paid = 10000, status = 'paid'") == "PW006"
    assert await sqlstate(owner, "update invoices set amount_paid = 10000") == "23514"  # unless with its status:
    await owner.execute("update invoices set amount_paid = 10000, status = 'paid'")
    assert await db.fetchval("select paid from invoice_discrepancies()") == 10000  # nobody logs in as the owner


PLANTED = "language plpgsql as $$ begin raise exception 'planted'; end $$;"


async def test_what_a_caller_plants_in_a_schema_or_in_pg_temp_is_not_what_the_functions_use(
    db: Connection, login: Login
) -> None:
    await calls.add_invoice(db, 1)
    await calls.apply(db, Event("e0", 1, 100, reference="ch_0"))
    await calls.apply(db, Event("c0", 1, 90, reference="ch_0"))
    await calls.apply(db, Event("e2", 2, 300), park=True)
    for role, use in {
        "server": "select public.apply_payment_event('e1', 1, 5000, p_reference => 'ch_1')",
        "biller": "insert into public.invoices (id, amount) values (2, 300)",
        "listener": "select public.process_payment_queue()",
        "operator": "select public.retry_dead_letters('conflict')",
        "reader": "select public.invoice_timeline(1)",
    }.items():
        user, schema = await login(role), f"planted_by_{role}"
        await db.execute(f"create schema {schema} authorization {await user.fetchval('select session_user')}")
        await user.execute(f"set search_path = {schema}, pg_catalog, public")
        for n, (operator, left, right) in enumerate(
            product(["=", "<>", ">=", "<", "+"], ["text", "bigint"], ["text", "bigint", "integer"])
        ):
            result = "bigint" if operator == "+" else "boolean"
            await user.execute(f"""
                create function planted_{n}({left}, {right}) returns {result} {PLANTED}
                create operator {operator} (leftarg = {left}, rightarg = {right}, function = planted_{n});
            """)
        await user.execute(f"""
            create function now() returns timestamptz {PLANTED}
            create function "left"(text, integer) returns text {PLANTED}
            create function base_kind(text) returns text {PLANTED}
            create function release_parked_events(bigint[]) returns bigint {PLANTED}
        """)
        for table in TABLES:
            await user.execute(f"create temp table {table} (id bigint)")
        for trap in ("select 1::bigint = 1", "select 'a'::text <> 'a'::text", "select now()", "select base_kind('a')"):
            with pytest.raises(asyncpg.RaiseError, match="planted"):
                await user.execute(trap)
        await user.execute(use)
        assert await calls.counts(user, *[f"pg_temp.{table}" for table in TABLES]) == [0] * len(TABLES)
        await user.execute(f"drop schema {schema} cascade")
    await sessions.assert_right(db)
    assert (await sessions.paid(db, 1), await sessions.paid(db, 2)) == (5100, 300)
