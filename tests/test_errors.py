"""Every SQLSTATE of our own is raised, says which row it is about in DETAIL, and in HINT what to do next."""

import re
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from service import migrate
from tests.calls import Event, add_invoice, apply, apply_all, counts, enqueue
from tests.conftest import Connection

DB = migrate.MIGRATIONS.parent
FUNCTIONS = DB / "functions"

Raise = Callable[[Connection], Awaitable[object]]


async def as_owner(db: Connection, statement: str) -> None:
    await db.execute("select set_config('role', role_name('owner'), false)")
    try:
        await db.execute(statement)
    finally:
        await db.execute("reset role")


async def unknown_invoice(db: Connection) -> None:
    await apply(db, Event("evt_1", 4711, 500))


async def unknown_invoice_reference(db: Connection) -> None:
    await enqueue(db, Event("evt_1", invoice_reference="INV-4711", connection="stripe"))


async def reassigned_to_nowhere(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("evt_1", 1, currency="EUR"), park=True)
    await db.execute("select reassign_dead_letter(id, 4711) from dead_letters")


async def invalid(db: Connection) -> None:
    await apply(db, Event("evt_1", 1, 0))


async def invalid_and_nameless(db: Connection) -> None:
    await enqueue(db, Event(None, 1, 77))


async def link_to_nothing(db: Connection) -> None:
    await db.execute("select link_invoice_reference('stripe', 'pi_1')")


async def other_currency(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("evt_1", 1, 500, currency="EUR"))


async def over_the_limit(db: Connection) -> None:
    await add_invoice(db, 1)
    await as_owner(db, "update invoices set amount_paid = 1000000000000000000, status = 'paid'")
    await apply(db, Event("evt_1", 1, 500))


async def change_of_the_ledger(db: Connection) -> None:
    await db.execute("truncate payments")


async def sums_set_on_insert(db: Connection) -> None:
    await db.execute("insert into invoices (id, amount, amount_paid, status) values (1, 100, 50, 'partially_paid')")


async def sums_set_by_update(db: Connection) -> None:
    await add_invoice(db, 1)
    await db.execute("update invoices set amount_paid = 50, status = 'partially_paid'")


async def currency_of_a_paid_invoice(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("evt_1", 1))
    await db.execute("update invoices set currency = 'EUR'")


async def retry_of_nothing(db: Connection) -> None:
    await db.execute("select retry_dead_letter(4711)")


async def dismissal_of_what_is_dismissed(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("evt_1", 1, currency="EUR"), park=True)
    await db.execute("select dismiss_dead_letter(id) from dead_letters")
    await db.execute("select dismiss_dead_letter(id) from dead_letters")


async def retry_of_what_is_no_event(db: Connection) -> None:
    await db.execute("select retry_dead_letter(store_dead_letter('stripe', 'unreadable', 'not JSON at 7', 'x'))")


async def void_of_nothing(db: Connection) -> None:
    await db.execute("select void_payment('stripe', 'evt_1')")


async def void_of_a_reversal(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply_all(db, [Event("p", 1, reference="r"), Event("evt_1", 1, 100, "payment_reversal", reference="r")])
    await db.execute("select void_payment('direct', 'evt_1')")


async def void_of_what_is_reversed_in_part(db: Connection) -> None:
    await add_invoice(db, 1)
    await apply_all(db, [Event("evt_1", 1, reference="r"), Event("q", 1, 40, "payment_reversal", reference="r")])
    await db.execute("select void_payment('direct', 'evt_1')")


# SQLSTATE, what raises it, and what message or DETAIL have to name.
RAISED: list[tuple[str, Raise, list[str]]] = [
    ("PW001", unknown_invoice, ["evt_1", "direct", "4711", "500"]),
    ("PW001", unknown_invoice_reference, ["evt_1", "stripe", "INV-4711"]),
    ("PW001", reassigned_to_nowhere, ["4711", "dead letter 1"]),
    ("PW002", invalid, ["evt_1", "amount"]),
    ("PW002", invalid_and_nameless, ["event_id", "77"]),
    ("PW002", link_to_nothing, ["invoice_id", "pi_1", "stripe"]),
    ("PW003", other_currency, ["evt_1", "EUR", "USD", "invoice 1"]),
    ("PW004", over_the_limit, ["evt_1", "invoice 1", "500"]),
    ("PW005", change_of_the_ledger, ["payments", "truncate"]),
    ("PW006", sums_set_on_insert, ["amount_paid"]),
    ("PW006", sums_set_by_update, ["amount_paid"]),
    ("PW007", currency_of_a_paid_invoice, ["invoice 1", "USD", "EUR"]),
    ("PW008", retry_of_nothing, ["4711"]),
    ("PW008", dismissal_of_what_is_dismissed, ["dead letter 1", "dismissed"]),
    ("PW008", retry_of_what_is_no_event, ["unreadable", "not JSON at 7"]),
    ("PW010", void_of_nothing, ["evt_1", "stripe"]),
    ("PW010", void_of_a_reversal, ["evt_1", "payment_reversal"]),
    ("PW010", void_of_what_is_reversed_in_part, ["evt_1", "40 of its 100"]),
]
RAISED_BY_MIGRATIONS = ["PW009"]  # installing: below


def assert_tells(error: asyncpg.PostgresError, sqlstate: str, named: list[str]) -> None:
    assert error.sqlstate == sqlstate
    message, detail, hint = (str(error.as_dict().get(part) or "") for part in ("message", "detail", "hint"))
    assert message
    assert detail, f"no DETAIL: {message}"
    assert hint, f"no HINT: {message}"
    for name in named:
        assert name in f"{message}\n{detail}", f"{name} is not named: {message} / {detail}"


@pytest.mark.parametrize(("sqlstate", "cause", "named"), RAISED, ids=[f"{s} {c.__name__}" for s, c, _ in RAISED])
async def test_an_error_has_its_sqlstate_a_detail_that_names_the_rows_and_a_hint(
    db: Connection, sqlstate: str, cause: Raise, named: list[str]
) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await cause(db)
    assert_tells(caught.value, sqlstate, named)


async def test_a_refused_event_leaves_nothing_and_names_a_hostile_id_within_bounds(db: Connection) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await apply(db, Event("'; drop table invoices; --" * 100_000, 1, body=b"{}"))
    assert_tells(caught.value, "PW002", ["event_id must be"])
    assert len(str(caught.value.as_dict()["detail"])) < 1000
    assert await counts(db, "payment_events", "deliveries", "dead_letters") == [0, 0, 0]


# Installing: into which schema, what was done before, what the error has to name.
INSTALLER = "create role installer createrole; grant usage, create on schema of_another to installer;"
NOT_INSTALLED = {
    "a schema that is missing": ("nowhere", "select 1", ["nowhere"]),
    "a schema where others may create": (
        "open_to_all",
        "create schema open_to_all; grant create on schema open_to_all to public",
        ["open_to_all", "PUBLIC"],
    ),
    "a role that somebody else made": (
        "taken",
        """create schema taken;
           do $$ begin execute format('create role %I nologin', current_database() || '_taken_listener'); end $$""",
        ["_taken_listener"],
    ),
    "a schema of another": (
        "of_another", "create schema of_another;" + INSTALLER + "set local role installer", ["of_another", "installer"],
    ),
    "a role that does not inherit": (
        "of_another",
        "create schema of_another;" + INSTALLER + "alter role installer noinherit; set local role installer",
        ["installer"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("obstacle", NOT_INSTALLED)
async def test_installing_is_refused_with_a_reason_and_a_way_out(db: Connection, obstacle: str) -> None:
    schema, preparation, named = NOT_INSTALLED[obstacle]
    script = next(migrate.MIGRATIONS.glob("*_roles.sql")).read_text().partition("-- migrate:down")[0]
    transaction = db.transaction()
    await transaction.start()
    await db.execute(preparation)
    await db.execute("select set_config('search_path', $1, true)", schema)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await db.execute(script)
    await transaction.rollback()
    assert_tells(caught.value, "PW009", named)


# The registry.


def test_the_tests_above_cover_every_sqlstate_that_the_sql_raises() -> None:
    raised = {
        code
        for folder in (FUNCTIONS, migrate.MIGRATIONS)
        for file in folder.glob("*.sql")
        for code in re.findall(r"'(PW\d{3})'", file.read_text())
    }
    assert raised == {sqlstate for sqlstate, _, _ in RAISED} | set(RAISED_BY_MIGRATIONS)


def test_every_raise_has_an_sqlstate_a_detail_and_a_hint() -> None:
    files = [*FUNCTIONS.glob("*.sql"), next(migrate.MIGRATIONS.glob("*_roles.sql"))]
    raises = [
        (file.name, statement)
        for file in files
        for statement in re.findall(r"raise exception\b.*?;\s*$", file.read_text(), re.DOTALL | re.MULTILINE)
    ]
    assert len(raises) >= 10
    for name, statement in raises:
        for part in ("errcode =", "detail =", "hint ="):
            assert part in statement, f"{name} raises without {part[:-2]}: {statement}"


def test_a_comment_names_only_sqlstates_that_are_raised() -> None:
    text = "".join(file.read_text() for file in FUNCTIONS.glob("*.sql"))
    assert set(re.findall(r"\bPW\d{3}\b", text)) <= {s for s, _, _ in RAISED} | set(RAISED_BY_MIGRATIONS)
