"""The operator's command line: the real commands against a real database, with a real listener where one matters."""

import asyncio
import getpass
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import commands, listener
from service.commands import act, importing
from service.commands.terminal import Progress, table
from service.database import PaymentEvent, Session
from service.environment import SettingsError
from service.migrate import MIGRATIONS
from service.settings import Settings
from service.text import printable
from tests.calls import add_invoice, assert_consistent, balance, counts, drain, rows_of, whereabouts
from tests.conftest import Connection
from tests.http_service import Process
from tests.providers import EXAMPLES, FETCHED, example, facts
from tests.sessions import until

HOSTILE = "evt\x1b[2J\x07\u202e\n\x9b\u2028x"
WORDS = "status", "doctor", "invoice", "event", "dead", "retry", "reread", "reassign", "dismiss", "import", "prune"


class Said(NamedTuple):
    status: int
    out: str
    err: str


class Command(Protocol):
    """`await command("status")` runs it in this process, as a login of the operator role."""

    async def __call__(self, *words: str, **settings: Any) -> Said: ...


@pytest.fixture
async def command(database_url: str, db: Connection, capfd: pytest.CaptureFixture[str]) -> Command:
    role = await db.fetchval("select role_name('operator')")

    async def command(*words: str, **settings: Any) -> Said:
        values = {"database_url": f"{database_url}&options=-crole%3D{role}"} | settings
        capfd.readouterr()
        try:
            status = await asyncio.to_thread(commands.run, Settings(**values), words)
        except SystemExit as error:
            status = int(str(error.code))
        return Said(status, *capfd.readouterr())

    return command


@pytest.fixture
async def listening(database_url: str, db: Connection) -> AsyncIterator[None]:
    """A listener at work, which has given its first sign of life."""
    stop = asyncio.Event()
    task = asyncio.create_task(listener.run(Settings(database_url=database_url, admin_port=0), stop))
    await until(lambda: db.fetchval("select count(*) from listener_states where alive and watching"))
    yield
    stop.set()
    await task


@pytest.fixture
async def invoices(db: Connection) -> None:
    await add_invoice(db, 1)
    await add_invoice(db, 2, 500)
    await db.execute("insert into invoice_references values ('stripe', 'INV-1', 1), ('stripe', 'INV-2', 2)")


pytestmark = pytest.mark.usefixtures("invoices")


async def report(database_url: str, *events: PaymentEvent) -> None:
    async with Session(database_url, "test") as session:
        await session.apply(events, park=True)


async def bury(database_url: str, db: Connection, *names: str) -> list[int]:
    """Dead letters of events in another currency than invoice 1's."""
    await report(database_url, *(PaymentEvent(name, 1, 100, currency="EUR") for name in names))
    return [row["id"] for row in await db.fetch("select id from open_dead_letters order by id")]


async def actions(db: Connection) -> list[tuple[Any, ...]]:
    return await rows_of(db, "select actor, action, note from operator_actions order by id")


# What is printed


@given(st.text())
def test_nothing_that_a_stranger_sends_commands_the_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_what_does_not_print_is_shown_by_its_number() -> None:
    assert printable(HOSTILE) == r"evt\x1b[2J\x07\u202e\n\x9b\u2028x"
    assert printable("naïve 支払 \U0001f4b6") == "naïve 支払 \U0001f4b6"


def test_a_table_stands_in_columns() -> None:
    rows: list[dict[str, Any]] = [{"id": 7, "event_id": "a\nb"}, {"id": 1000, "event_id": None}]
    assert table(rows, "id", "event_id") == "  id  event id\n   7  a\\nb\n1000"


@pytest.mark.usefixtures("listening")
async def test_hostile_text_of_an_event_is_escaped_wherever_it_is_shown(
    command: Command, database_url: str, db: Connection
) -> None:
    event = PaymentEvent(HOSTILE, 1, 100, None, "EUR", "direct", HOSTILE, body=b"\x1b]0;title\x07 \xff")
    await report(database_url, event)
    await db.execute("insert into invoice_references values ('direct', $1, 1)", HOSTILE)
    [letter] = [row["id"] for row in await db.fetch("select id from open_dead_letters")]
    for words in (
        ["event", HOSTILE], ["invoice", HOSTILE], ["dead"], ["dead", str(letter)], ["retry", str(letter)],
        ["event", HOSTILE + "?"], ["invoice", HOSTILE + "?"], ["reassign", str(letter), HOSTILE + "?"],
        ["dead", HOSTILE],
    ):  # fmt: skip
        said = await command(*words)
        text = said.out + said.err
        assert r"\x1b" in text, words
        assert all(one.isprintable() or one == "\n" for one in text), words
        assert "evt\\x1b[2J\\x07\\u202e\\n" in text or words[0] == "dead"
    assert r"\xff" in (await command("dead", str(letter))).out
    assert json.loads((await command("event", HOSTILE, "--json")).out)["events"][0]["event_id"] == HOSTILE


# Looking


@pytest.mark.usefixtures("listening")
async def test_all_is_well_when_a_listener_lives_and_nothing_is_dead(command: Command) -> None:
    said = await command("status")
    assert (said.status, said.err) == (0, "")
    assert "All is well." in said.out
    assert listener.NAME in said.out
    state = json.loads((await command("status", "--json")).out)
    assert (state["healthy"], state["problems"], state["queued"], state["longest_overdue"]) == (True, [], 0, 0.0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", state["listeners"][0]["seen_at"])
    assert state["listeners"][0]["silent"] < 60


async def test_status_says_what_needs_a_person(command: Command, database_url: str, db: Connection) -> None:
    said = await command("status")
    assert said.status == 1
    assert "No listener is alive" in said.out
    await db.execute("select report_listener('another', '5 s', true)")
    assert (await command("status")).status == 0

    await db.execute("select enqueue_payment_event('late', 1, 100)")
    await db.execute("update payment_queue set next_attempt_at = now() - interval '14 s'")
    assert (await command("status", poll_interval=5)).status == 0
    said = await command("status", poll_interval=4)
    assert said.status == 1
    assert "has been due for 14" in said.out
    await drain(db)

    await bury(database_url, db, "dead")
    said = await command("status", "--json")
    state = json.loads(said.out)
    assert (said.status, state["healthy"]) == (1, False)
    assert state["problems"] == ["Dead letters: 1. See why: python -m service dead"]
    assert "currency_mismatch" in (await command("status")).out


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_a_round_balance_is_written_in_full(command: Command, database_url: str, words: tuple[str, ...]) -> None:
    await report(database_url, PaymentEvent("e1", 1, 10_000))
    said = await command("invoice", "1", *words)
    assert "10000" in said.out
    assert "E+" not in said.out


async def test_an_invoice_is_shown_with_its_running_balance(command: Command, database_url: str) -> None:
    await report(database_url, PaymentEvent("e1", 1, 400), PaymentEvent("e2", 1, 250))
    by_id, by_name = await command("invoice", "1"), await command("invoice", "INV-1")
    assert by_id == by_name
    assert by_id.status == 0
    assert [line.split()[-2:] for line in by_id.out.splitlines() if "posted" in line] == [
        ["400", "400"],
        ["250", "650"],
    ]
    [shown] = json.loads((await command("invoice", "INV-1", "--json")).out)
    assert (shown["paid"], shown["references"][0]["reference"]) == (650, "INV-1")
    assert [row["balance"] for row in shown["timeline"]] == ["400", "650"]

    unknown = await command("invoice", "INV-9")
    assert (unknown.status, unknown.out) == (1, "")
    assert "python -m service event INV-9" in unknown.err
    assert (await command("invoice", "INV-9", "--json")).out == "[]\n"


async def test_an_event_is_shown_with_all_that_happened_to_it(
    command: Command, database_url: str, db: Connection
) -> None:
    [letter] = await bury(database_url, db, "evt_1")
    await report(database_url, PaymentEvent("evt_1", 1, 999, currency="EUR"))  # other content under its id
    await command("retry", str(letter), "--as", "ann", "--note", "try")
    await drain(db)

    said = await command("event", "evt_1")

    assert said.status == 0
    assert re.search(r"^place +dead$", said.out, re.MULTILINE)
    assert "the event is in EUR, invoice 1 in USD" in said.out
    assert re.search(r"ann +retried +1 +try", said.out)
    shown = json.loads((await command("event", "evt_1", "--json")).out)
    assert shown["dead_letters"] == []
    [event] = shown["events"]
    assert [(row["reason"], row["resolution"]) for row in event["letters"]] == [
        ("currency_mismatch", "retried"), ("conflict", None), ("currency_mismatch", None),
    ]  # fmt: skip
    assert (await command("event", "evt_2")).status == 1


async def test_what_was_never_an_event_is_found_by_its_event_id(command: Command, db: Connection) -> None:
    await db.execute("select store_dead_letter('stripe', 'bad_amount', 'why', 'x', 'text/plain', 'evt_9')")
    said = await command("event", "evt_9")
    assert said.status == 0
    assert "bad_amount" in said.out
    shown = json.loads((await command("event", "evt_9", "--json")).out)
    assert (shown["events"], shown["dead_letters"][0]["reason"]) == ([], "bad_amount")


async def test_dead_letters_come_in_pages(command: Command, db: Connection) -> None:
    await db.execute(
        "select store_dead_letter('stripe', case when n % 5 = 0 then 'odd' else 'unreadable' end, 'why', int4send(n))"
        " from generate_series(1, 12) n"
    )
    first = await command("dead", "--limit", "8")
    assert first.status == 0
    assert len(first.out.splitlines()) == 9
    page = re.search(r"python -m service (dead --after \d+)", first.err)
    assert page is not None
    rest = await command(*page[1].split(), "--limit", "8")
    assert len(rest.out.splitlines()) == 5
    assert "--after" not in rest.err
    assert len(json.loads((await command("dead", "--reason", "odd", "--json")).out)) == 2


async def test_one_dead_letter_is_shown_with_its_body(command: Command, database_url: str) -> None:
    await report(database_url, PaymentEvent("e", 1, 5, body=b"first"), PaymentEvent("e", 1, 6, body=b'{"amount":\n6}'))
    said = await command("dead", "1")
    assert said.status == 0
    assert said.out.endswith('The body:\n{"amount":\n6}\n')
    shown = json.loads((await command("dead", "1", "--json")).out)
    assert (shown["body"], shown["report"]["amount"]) == ('{"amount":\n6}', 6)
    assert (await command("dismiss", "1", "--note", "ours", "--as", "ann")).status == 0
    said = await command("dead", "1")
    assert re.search(r"resolution +dismissed", said.out)
    assert re.search(r"ann +dismissed +ours", said.out)
    missing = await command("dead", "77")
    assert (missing.status, missing.err) == (1, "There is no dead letter 77. The open ones: python -m service dead\n")


# Mending


@pytest.mark.usefixtures("listening")
async def test_retry_says_what_the_listener_made_of_each(command: Command, database_url: str, db: Connection) -> None:
    first, second = await bury(database_url, db, "mended", "not mended")
    await db.execute("select set_config('role', role_name('owner'), false)")
    await db.execute("update invoices set currency = 'EUR' where id = 1")
    await command("reassign", str(second), "2")  # in USD: dead again
    [again] = [row["id"] for row in await db.fetch("select id from open_dead_letters where event_id = 'not mended'")]

    said = await command("retry", str(first), str(again), str(first), "77", "--note", "mended")

    assert said.status == 1
    assert re.search(rf"^ *{first}  posted +direct +mended$", said.out, re.MULTILINE)
    assert re.search(
        rf"^ *{again}  dead again  direct +not mended +currency_mismatch: the event is", said.out, re.MULTILINE
    )
    assert "2 back in the queue" in said.out
    assert "77: refused. there is no open dead letter 77. No dead letter has this id." in said.err
    assert (await balance(db, 1))[1] == 100
    assert (getpass.getuser(), "retried", "mended") in await actions(db)
    await assert_consistent(db)


@pytest.mark.usefixtures("listening")
async def test_all_of_a_reason_are_retried_in_batches(
    command: Command, database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "BATCH", 3)
    await bury(database_url, db, *(f"e{number}" for number in range(10)))
    await report(database_url, PaymentEvent("p", 2, 1, reference="r"), PaymentEvent("q", 2, 7, reference="r"))
    await db.execute("update invoices set currency = 'EUR' where id = 1")

    dry = await command("retry", "--reason", "currency_mismatch", "--dry-run")
    assert (dry.status, dry.out) == (
        0, f"Would retry 10 dead letters, nothing was done: {', '.join(map(str, range(1, 11)))}\n",
    )  # fmt: skip
    assert await counts(db, "open_dead_letters", "payment_queue", "operator_actions") == [11, 0, 0]

    said = await command("retry", "--reason", "currency_mismatch", "--as", "ann")
    assert said.status == 0
    assert "10 back in the queue: 10 posted." in said.out
    assert await actions(db) == [("ann", "retried", None)] * 10
    assert (await balance(db, 1))[1] == 1000
    assert (await command("retry", "--all")).status == 1, "the conflict is dead again"
    assert (await command("retry", "--reason", "nothing")).status == 0


async def test_of_many_letters_only_those_are_shown_that_need_a_person(
    command: Command, database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "SHOWN", 2)
    await bury(database_url, db, "e1", "e2", "e3")
    await db.execute("update payment_queue set next_attempt_at = 'infinity'")
    said = await command("retry", "--all")
    assert said.status == 1
    assert len([line for line in said.out.splitlines() if "still queued" in line]) == 2 + 1  # and the summary
    assert "No listener is alive" in said.err


async def test_retry_waits_only_while_something_moves(
    command: Command, database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "PATIENCE", 0.5)
    [letter] = await bury(database_url, db, "e")
    await db.execute("select report_listener('stuck', '5 s', true)")
    async with asyncio.timeout(10):
        said = await command("retry", str(letter))
    assert said.status == 1
    assert re.search(r"1  still queued  direct +e$", said.out, re.MULTILINE)


@pytest.mark.usefixtures("listening")
async def test_a_dead_event_is_given_to_the_invoice_of_a_reference(
    command: Command, database_url: str, db: Connection
) -> None:
    await db.execute("insert into invoices (id, amount, currency) values (3, 900, 'EUR')")
    await db.execute("insert into invoice_references values ('stripe', 'INV-3', 3), ('adyen', 'INV-1', 3)")
    [letter] = await bury(database_url, db, "e")
    for wrong, why in (("INV-1", "is that of invoices 1, 3: give the id"), ("INV-9", "names no invoice")):
        said = await command("reassign", str(letter), wrong)
        assert (said.status, said.err) == (1, f"{wrong} {why}. Nothing was done.\n")
    said = await command("reassign", str(letter), "INV-3", "--note", "old number", "--as", "ann")
    assert said.status == 0
    assert (await balance(db, 3))[1] == 100
    assert await actions(db) == [("ann", "reassigned", "to invoice 3: old number")]
    assert (await command("reassign", str(letter), "3")).status == 1


async def test_dismissing_wants_a_reason_and_closes(command: Command, database_url: str, db: Connection) -> None:
    first, second = await bury(database_url, db, "e1", "e2")
    said = await command("dismiss", str(first))
    assert said.status == 2
    assert "--note" in said.err
    said = await command("dismiss", str(first), str(second), str(first), "--note", "test events", "--as", "ann")
    assert (said.status, said.out) == (1, "2 dismissed.\n")
    assert "1: refused. there is no open dead letter 1. It was dismissed at" in said.err
    assert await actions(db) == [("ann", "dismissed", "test events")] * 2


async def test_old_bodies_are_pruned_in_steps(
    command: Command, database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "PRUNED", 2)
    await report(database_url, *(PaymentEvent(f"e{number}", 1, 1, body=str(number).encode()) for number in range(5)))
    await db.execute("update deliveries set received_at = now() - interval '91 days' where id <= 3")
    said = await command("prune", "--days", "90", "--as", "ann", "--note", "monthly")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("3 bodies older than 90 days deleted.")
    assert await counts(db, "deliveries") == [2]
    assert [(actor, action) for actor, action, _ in await actions(db)] == [("ann", "pruned")] * 2


# Import


def stripe_event(event_id: str, invoice: object = 1, amount: int = 100, **fields: Any) -> dict[str, Any]:
    intent = {"id": f"pi_{event_id}", "amount_received": amount, "currency": "usd", "metadata": {"invoice_id": invoice}}
    event = {"id": event_id, "type": "payment_intent.succeeded", "livemode": True, "created": 1_790_000_000}
    return event | {"data": {"object": intent}} | fields


def write(file: Path, *lines: object) -> str:
    text = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    file.write_bytes(b"\n".join(text) + b"\n")
    return str(file)


async def test_an_export_is_taken_as_if_it_had_come_by_webhook_and_recorded(
    command: Command, database_url: str, db: Connection, tmp_path: Path
) -> None:
    stripe = example("stripe")
    file = write(
        tmp_path / "events.jsonl",
        stripe_event("evt_1"),
        stripe_event("evt_2", "INV-2"),
        stripe_event("evt_1"),
        b"",
        stripe_event("evt_3", 77),
        stripe_event("evt_4", type="customer.created"),
        stripe_event("evt_5", livemode=False),
        b'{"id": "evt_6',
        [1],
        {"id": "cs_1", "type": "checkout.session.completed", "livemode": True,
         "data": {"object": {"mode": "payment", "payment_status": "paid", "amount_total": 5, "payment_intent": "pi_9",
                             "metadata": {"invoice_id": "2"}}}},
    )  # fmt: skip
    imports = "import", "stripe", file, "--as", "ann", "--note", "outage of Friday"
    one_of_them = json.dumps(stripe_event("evt_2", "INV-2")).encode()
    async with Session(database_url, "test") as session:  # it had come by webhook after all
        await session.enqueue([PaymentEvent(
            "evt_2", None, 100, "payment", "USD", "stripe", "pi_evt_2", invoice_reference="INV-2", body=one_of_them,
        )], park=True)  # fmt: skip

    dry = await command(*imports, "--dry-run", connections=(stripe,))
    assert dry.status == 1
    assert "Nothing was done." in dry.out
    assert await counts(db, "payment_events", "dead_letters", "operator_actions", "invoice_references") == [1, 0, 0, 2]

    first = await command(*imports, connections=(stripe,))
    again = await command(*imports, connections=(stripe,))

    assert first.status == 1
    counted = first.out.splitlines()[0].removeprefix(f"10 lines of {file}: ").removesuffix(".").split(", ")
    assert sorted(counted) == [
        "1 dead letter (wrong_mode)", "1 ignored", "1 linked", "2 duplicate", "2 queued", "2 unreadable",
    ]  # fmt: skip
    assert [line.split(":")[:2] for line in first.err.splitlines()] == [
        ["line 7", " dead letter (wrong_mode)"], ["line 8", " unreadable"], ["line 9", " unreadable"],
    ]  # fmt: skip
    assert "5 duplicate" in again.out
    await drain(db)
    assert [(await balance(db, invoice))[1] for invoice in (1, 2)] == [100, 100]
    assert await whereabouts(db, "evt_3", "stripe") == ("pending", "parked")
    note = f"{file}: outage of Friday"
    assert await actions(db) == [
        ("ann", "imported", note),
        ("ann", "linked", f"pi_9 of connection stripe to invoice 2: {note}"),
        ("ann", "imported", note),
        ("ann", "imported", note),
    ]
    assert await db.fetchval("select count(*) from deliveries where body = $1", one_of_them) == 1
    await assert_consistent(db)


async def test_our_own_json_is_taken_as_its_endpoint_takes_it(
    command: Command, db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "LINES", 2)
    lines = [
        {"event_id": "e1", "invoice_id": 1, "amount": 100},
        {"event_id": "e2", "invoice_id": 9, "amount": 100},
        {"event_id": "e3", "invoice_id": 1, "amount": -5},
        {"event_id": "e1", "invoice_id": 1, "amount": 300},
        {"event_id": "e4", "invoice_id": 1, "amount": 50, "currency": "EUR"},
    ]
    file = write(tmp_path / "events.jsonl", *lines)
    said = await command("import", "payments", file)
    assert said.status == 1
    assert [line.split(":")[:2] for line in said.err.splitlines()] == [
        ["line 2", " unknown_invoice"], ["line 3", " unreadable"], ["line 4", " conflict"],
        ["line 5", " currency_mismatch"],
    ]  # fmt: skip
    assert "#/amount" in said.err
    assert await counts(db, "payment_events", "open_dead_letters") == [1, 1]

    good = write(tmp_path / "good.jsonl", *lines[:1])
    assert (await command("import", "payments", good)).status == 0


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - set(FETCHED)))
async def test_what_was_imported_is_a_duplicate_when_the_webhook_comes_after_all(
    command: Command, database_url: str, tmp_path: Path, name: str
) -> None:
    adapter = example(name)
    body = adapter.sample("1", 5000, "USD")
    text = body if body.startswith(b"{") else json.dumps(body.decode()).encode()
    said = await command("import", name, write(tmp_path / "events.jsonl", text), connections=(adapter,))
    assert (said.status, said.err) == (0, "")
    assert "1 lines" in said.out
    assert "1 queued" in said.out
    events = [fact for fact in await facts(adapter, body) if isinstance(fact, PaymentEvent)]
    async with Session(database_url, "test") as session:
        assert [row.outcome for row in await session.enqueue(events, park=True)] == ["duplicate"]


async def test_an_event_that_a_trigger_refuses_spoils_nothing_else(
    command: Command, db: Connection, tmp_path: Path
) -> None:
    await db.execute(
        """create function no_odd() returns trigger language plpgsql as $$ begin
               if new.event_id = 'e3' then raise exception 'odd'; end if; return new; end $$;
           create trigger no_odd before insert on payment_events for each row execute function no_odd();"""
    )
    events = [stripe_event(f"e{number}") for number in range(6)]
    file = write(tmp_path / "events.jsonl", *events)
    said = await command("import", "stripe", file, connections=(example("stripe"),))
    assert said.status == 1
    assert said.out.startswith(f"6 lines of {file}: 5 queued, 1 dead letter (invalid).")
    assert said.err == "line 4: dead letter (invalid): SQLSTATE P0001\n"
    assert await counts(db, "payment_queue", "open_dead_letters") == [5, 1]


async def test_an_import_that_is_cut_off_says_how_far_it_came_and_can_be_repeated(
    command: Command, db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "LINES", 1)
    await db.execute(
        """create function cut() returns trigger language plpgsql security definer as $$ begin
               if new.event_id = 'e3' then perform pg_terminate_backend(pg_backend_pid()); end if; return new; end $$;
           create trigger cut before insert on payment_events for each row execute function cut();"""
    )
    file = write(tmp_path / "events.jsonl", *(stripe_event(f"e{number}") for number in range(6)))
    said = await command("import", "stripe", file, connections=(example("stripe"),))
    assert (said.status, said.out) == (3, "")
    assert said.err.startswith("Lines up to 3 are done. Run it again: what is stored counts as duplicate.\n")
    await db.execute("drop trigger cut on payment_events")
    said = await command("import", "stripe", file, connections=(example("stripe"),))
    assert said.status == 0
    assert "3 queued" in said.out
    assert "3 duplicate" in said.out


async def test_a_body_that_is_no_json_stands_in_a_json_text(command: Command, db: Connection, tmp_path: Path) -> None:
    braintree = example("braintree")
    form = braintree.sample("1", 100, "USD").decode()
    file = write(tmp_path / "events.jsonl", form, "\ud800")
    said = await command("import", "braintree", file, connections=(braintree,))
    assert said.out.startswith(f"2 lines of {file}: 1 unreadable, 1 queued.")
    await drain(db)
    assert (await balance(db, 1))[1] == 100


async def test_what_the_providers_api_does_not_tell_is_kept_or_can_be_imported_again(
    command: Command, db: Connection, tmp_path: Path
) -> None:
    signed = example("mollie")  # its API is at a port where nobody listens
    classic = signed.model_copy(update={"webhook_secrets": (), "classic": True})
    file = write(tmp_path / "forms.jsonl", "id=tr_1")
    said = await command("import", "mollie", file, connections=(classic,))
    assert said.status == 1
    assert "line 1: not confirmed: the provider's API did not tell" in said.err
    assert await counts(db, "payment_events", "dead_letters") == [0, 0]
    file = write(tmp_path / "events.jsonl", {"id": "event_1", "type": "payment.paid", "entityId": "tr_1"})
    said = await command("import", "mollie", file, connections=(signed,))
    assert said.status == 1
    assert "line 1: dead letter (not_fetched): http://127.0.0.1:9 gave no answer" in said.err
    assert await counts(db, "payment_events", "open_dead_letters") == [0, 1]


async def test_bodies_are_read_anew_once_a_setting_is_mended(command: Command, db: Connection) -> None:
    stripe = example("stripe")
    test_mode = stripe.model_copy(update={"mode": "test"})
    bodies = [test_mode.sample("1", 100, "USD"), b"no JSON"]
    for body in bodies:
        [letter] = await facts(stripe, body)
        await db.execute("select store_dead_letter($1, $2, $3, $4, $5)", *letter[:5])
    first, second = [row["id"] for row in await db.fetch("select id from open_dead_letters order by id")]
    everything = "reread", str(first), str(second), "--as", "ann"

    as_before = await command(*everything, connections=(stripe,))
    tried = await command(*everything, "--dry-run", connections=(test_mode,))
    assert (as_before.status, as_before.out.splitlines()[-1]) == (1, "0 read anew and closed, 2 as before.")
    assert (tried.status, tried.out.splitlines()[-1]) == (1, "1 read anew and closed, 1 as before. Nothing was done.")
    assert await counts(db, "payment_events", "open_dead_letters") == [0, 2]

    said = await command(*everything, connections=(test_mode,))
    assert (said.status, said.out.splitlines()[0]) == (1, f"{first}: queued")
    assert said.out.splitlines()[1].startswith(f"{second}: dead letter (unreadable)")
    await drain(db)
    assert (await balance(db, 1))[1] == 100
    assert await actions(db) == [("ann", "imported", None), ("ann", "dismissed", "read anew, queued")]

    [conflict] = await facts(test_mode, test_mode.sample("1", 7, "USD"))
    assert isinstance(conflict, PaymentEvent)
    await db.execute(
        "select enqueue_payment_event($1, $2, $3, $4, $5, $6, $7, p_body => $8)", *conflict[:7], conflict.body
    )
    [letter] = [row["id"] for row in await db.fetch("select id from open_dead_letters where reason = 'conflict'")]
    said = await command("reread", str(letter), connections=(test_mode,))
    assert (said.status, said.out.splitlines()[-1]) == (1, "0 read anew and closed, 1 as before.")

    for amount in (5, 6):  # by a plain endpoint
        await db.execute(
            "select enqueue_payment_event('e9', 1, $1, p_body => $2)",
            amount,
            f'{{"event_id": "e9", "invoice_id": 1, "amount": {amount}}}'.encode(),
        )
    [letter] = [row["id"] for row in await db.fetch("select id from open_dead_letters where event_id = 'e9'")]
    said = await command("reread", str(letter))
    assert (said.status, said.out.splitlines()[-1]) == (1, "0 read anew and closed, 1 as before.")

    await db.execute("select store_dead_letter('elsewhere', 'unreadable', 'why', 'x')")
    with pytest.raises(SettingsError, match="elsewhere is not configured here"):
        await command("reread", "--reason", "unreadable", connections=(test_mode,))

    again = await command("reread", str(first), connections=(test_mode,))
    assert (again.status, again.err) == (
        1, f"{first}: no open letter without an event whose body is kept. See python -m service dead {first}\n"
    )  # fmt: skip
    assert (await command("reread", "--reason", "wrong_mode", connections=(test_mode,))).status == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["import", "stripe", "/nowhere/events.jsonl"], "cannot read /nowhere/events.jsonl: No such file"),
        (["import", "stripe"], "FILE"),
        (["retry"], "one of the arguments ID --reason --all is required"),
        (["retry", "7", "--all"], "not allowed with"),
        (["retry", "seven"], "expected the id of a dead letter, a number, not seven"),
        (["dead", "--limit", "0"], "expected a number from 1"),
        (["prune"], "--days"),
        (["prune", "--days", "-1"], "--days"),
        (["dismiss", "7", "--note", "x", "--as", " "], "expected text"),
        (["event", "\udcff"], "expected text"),
        (["dismiss", "7", "--note", ""], "expected text"),
        (["nonsense"], "invalid choice: 'nonsense'"),
    ],
    ids=str,
)
async def test_a_wrong_command_line_says_what_is_wrong_and_where_the_help_is(
    command: Command, words: list[str], expected: str
) -> None:
    said = await command(*words)
    assert (said.status, said.out) == (2, "")
    assert expected in said.err
    assert re.search(r"See python -m service .*--help\.$", said.err)


async def test_an_import_for_a_connection_that_is_not_configured_says_so(command: Command, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"adyen is not configured here.*Configured: payments, stripe"):
        await command("import", "adyen", write(tmp_path / "x", {}), connections=(example("stripe"),))


# Help


@pytest.mark.parametrize("word", WORDS)
async def test_each_command_has_a_help_that_ends_with_its_exit_statuses(command: Command, word: str) -> None:
    said = await command(word, "--help")
    assert said.status == 0
    assert "Exit status: 0" in said.out
    assert all(len(line) <= 120 for line in said.out.splitlines())
    assert re.search(rf"^    {word} ", commands.HELP, re.MULTILINE)


def test_the_general_help_lists_what_exists() -> None:
    listed = re.findall(r"^    ([a-z]+) ", commands.HELP, re.MULTILINE)
    assert set(listed) == {*WORDS, "psql", "send"}


def runbook() -> list[list[str]]:
    """The commands of ours in README's runbook, in their order."""
    section = (MIGRATIONS.parent.parent / "README.md").read_text().partition("### Runbook")[2].partition("\n## ")[0]
    lines = re.findall(rf"^    (?:\w+=\S+ )?python -m service ((?:{'|'.join(WORDS)})\b.*)$", section, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.usefixtures("listening")
async def test_the_runbooks_commands_do_what_it_says(
    command: Command, database_url: str, db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.execute("insert into invoices (id, amount, currency) values (42, 900, 'EUR')")
    assert await bury(database_url, db, *(f"e{number}" for number in range(1, 10))) == list(range(1, 10))
    await db.execute("update invoices set currency = 'EUR' where id = 1")
    write(tmp_path / "yesterday.jsonl", stripe_event("evt_1", 2))
    monkeypatch.chdir(tmp_path)

    said = {" ".join(words): await command(*words, connections=(example("stripe"),)) for words in runbook()}

    assert {words.split()[0] for words in said} >= {
        "status", "doctor", "event", "dead", "retry", "reassign", "dismiss", "import",
    }  # fmt: skip
    needs_a_person = {words.split()[0] for words, one in said.items() if one.status != 0}
    assert needs_a_person == {"status", "doctor", "event"}, said  # dead letters, the tests' fsync, no such event
    assert all(one.status < 2 for one in said.values())
    await until(lambda: db.fetchval("select not exists (select from payment_queue)"))
    assert [(await balance(db, invoice))[1] for invoice in (1, 2, 42)] == [100, 100, 100]


# Logins, and a database that is not as it should be


@pytest.fixture
async def logins(db: Connection) -> AsyncIterator[dict[str, str]]:
    """A login for each role, by the role's name."""
    names = {role: f"c_{role}" for role in ("server", "listener", "operator", "reader")}
    for role, name in names.items():
        await db.execute(f"create role {name} login in role {await db.fetchval('select role_name($1)', role)}")
    try:
        yield names
    finally:
        await db.execute("reset role")
        await db.execute(f"drop role {', '.join(names.values())}")


def as_user(database_url: str, user: str) -> str:
    return database_url.replace("//postgres@", f"//{user}@")


@pytest.mark.usefixtures("listening")
async def test_who_is_no_operator_is_told_what_is_missing(
    command: Command, database_url: str, logins: dict[str, str], tmp_path: Path
) -> None:
    for role in ("server", "listener"):
        said = await command("status", database_url=as_user(database_url, logins[role]))
        assert said.status == 1
        assert "member of the role <database>_<schema>_operator" in said.err
        file = write(
            tmp_path / "events.jsonl", *({"event_id": f"e{n}", "invoice_id": 1, "amount": 1} for n in range(3))
        )
        said = await command("import", "payments", file, database_url=as_user(database_url, logins[role]))
        assert (said.status, said.out) == (1, "")
        assert said.err.startswith("The database refused it (SQLSTATE 42501)")
    said = await command("status", database_url=as_user(database_url, "nobody_at_all"))
    assert said.status == 3
    assert "refuses the login" in said.err
    urls = {"database_url": as_user(database_url, logins["server"])}
    urls["operator_database_url"] = as_user(database_url, logins["operator"])
    assert (await command("status", **urls)).status == 0


def bad(said: Said) -> list[str]:
    return [line[6:] for line in said.out.splitlines() if line.startswith("BAD")]


@pytest.mark.usefixtures("listening")
async def test_doctor_finds_nothing_bad_but_that_the_tests_database_forgets_a_crash(
    command: Command, database_url: str, logins: dict[str, str]
) -> None:
    said = await command(
        "doctor",
        database_url=as_user(database_url, logins["server"]),
        operator_database_url=as_user(database_url, logins["operator"]),
        connections=(example("stripe"),),
    )
    assert bad(said) == ["fsync is off: a crash of the machine can corrupt the ledger"]
    assert said.status == 1
    for line in (
        "connection stripe: Stripe, live",
        "migrations: up to date",
        "DATABASE_URL: login c_server is a member of server",
        "OPERATOR_DATABASE_URL: login c_operator is a member of operator",
        "schema: nobody but the owner may create objects in it",
        "clocks: 0.0 s apart",
        "DATABASE_URL goes to PostgreSQL directly",
        "listeners: 1 alive, one on watch",
        "books: every event is in exactly one place",
    ):
        assert f"ok    {line}\n" in said.out
    assert re.search(r"^ok    NOTIFY: back in \d+\.\d ms$", said.out, re.MULTILINE)
    assert re.search(r"^ok    queue: .* rows wait for vacuum$", said.out, re.MULTILINE)


@pytest.mark.usefixtures("logins")
async def test_doctor_finds_what_is_bad_and_says_what_to_do(
    command: Command, database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.execute("grant create on schema public to c_reader")
    await db.execute("select enqueue_payment_event('lost', 1, 100)")
    await db.execute("select set_config('role', role_name('owner'), false)")
    await db.execute("update invoices set amount_refunded = 99 where id = 2")
    await db.execute("delete from payment_queue")
    await db.execute("reset role")
    await db.execute("select report_listener('polls', '5 s', false)")
    for limit, value in (("CLOCKS", -1.0), ("ECHO", 0.0), ("DEAD_ROWS", -1)):
        monkeypatch.setattr(f"service.commands.doctor.{limit}", value)
    said = await command("doctor", database_url=f"{database_url}&options=-csynchronous_commit%3Doff")
    await db.execute("revoke create on schema public from c_reader")
    assert said.status == 1
    found = bad(said)
    for expected in (
        "DATABASE_URL: login postgres is a superuser: no limit holds for it",
        "schema: c_reader may create objects in it",
        "clocks: the database's is",
        "NOTIFY: it did not come back within 0 s",
        "queue: ",
        "synchronous_commit is off",
        "listeners: 1 alive and none on watch",
        "books: 1 invoices differ from the ledger",
        "books: 1 events are in no place or in two",
    ):
        assert any(line.startswith(expected) for line in found), (expected, found)
    assert "revoke create on schema public from c_reader" in said.out
    assert "create role NAME login in role template_payments_public_operator" in said.out


@pytest.mark.parametrize(
    ("server", "operator", "expected"),
    [
        ("reader", "operator", "DATABASE_URL: login c_reader is a member of reader"),
        ("server", "server", "OPERATOR_DATABASE_URL: login c_server is a member of server"),
        ("server", None, "DATABASE_URL: login c_server is a member of server"),
    ],
)
async def test_doctor_says_which_role_a_login_lacks(
    command: Command, database_url: str, logins: dict[str, str], server: str, operator: str | None, expected: str
) -> None:
    urls = {"database_url": as_user(database_url, logins[server])}
    if operator:
        urls["operator_database_url"] = as_user(database_url, logins[operator])
    said = await command("doctor", **urls)
    assert expected in bad(said)
    assert re.search(r"grant template_payments_public_(operator|server) to c_", said.out)


async def test_a_database_that_is_not_migrated_says_what_to_run(command: Command, cluster: Any, db: Connection) -> None:
    del db
    said = await command("status", database_url=cluster.url_of("postgres"))
    assert (said.status, said.out) == (1, "")
    assert "run dbmate --env-file dbmate.env up" in said.err
    said = await command("doctor", database_url=cluster.url_of("postgres"))
    assert said.status == 1
    assert "migrations: the database is not migrated; run dbmate --env-file dbmate.env up" in bad(said)
    assert "DATABASE_URL: the login sees no payment tables" in bad(said)


# As processes: exit statuses, the embedded database, a pipe that closes


PIPED = b'{"event_id": "piped", "invoice_id": 1, "amount": 100}'


def process(*words: str, **environment: str) -> Said:
    """Run it as a script does; PIPED comes by standard input."""
    ended = subprocess.run(
        [sys.executable, "-m", "service", *words],
        input=PIPED, env=os.environ | environment, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    return Said(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def test_exit_statuses_tell_scripts_what_happened(database_url: str, db: Connection, tmp_path: Path) -> None:
    url = {"DATABASE_URL": database_url}
    await db.execute("select report_listener('another', '1 h', true)")
    expected = [
        (0, process("--help")),
        (0, process("status", **url)),
        (0, process("import", "payments", "-", **url)),
        (1, process("event", "never", **url)),
        (2, process("retry", **url)),
        (2, process("status", DATABASE_URL="mysql://x")),
        (2, process("status", DATABASE_URL="postgresql://ann:s3cret/word@db/payments")),
        (2, process("status", DATABASE_URL="postgresql://ann:s3cret@[::1/payments")),
        (2, process("import", "stripe", "-", **url)),
        (3, process("status", DATABASE_URL="postgresql://x@127.0.0.1:1/payments")),
        (3, process("status", DATA_DIR=str(tmp_path))),
        (3, process("psql", DATA_DIR=str(tmp_path))),
        (3, process("doctor", DATABASE_URL="postgresql://x@127.0.0.1:1/payments")),
        (3, process("doctor", OPERATOR_DATABASE_URL=as_user(database_url, "nobody_at_all"), **url)),
    ]
    assert [said.status for _, said in expected] == [status for status, _ in expected]
    for status, said in expected:
        assert "Traceback" not in said.err, said
        assert "s3cret" not in said.err, said
        assert (status == 0) == (said.err == "" and "BAD" not in said.out), said
    assert bad(expected[-1][1]) == ["OPERATOR_DATABASE_URL: cannot log in (SQLSTATE 28000)"]
    assert "1 lines of <stdin>: 1 queued." in expected[2][1].out
    assert await actions(db) == [(getpass.getuser(), "imported", "<stdin>")]


@pytest.mark.parametrize("at", ["infinity", "-infinity"])
async def test_a_time_without_end_is_shown(database_url: str, db: Connection, at: str) -> None:
    await db.execute(
        f"select enqueue_payment_event('e1', 1, 1, p_occurred_at => '{at}', p_park => true, p_reference => 'r1')"
    )
    for words in (("event", "e1"), ("event", "e1", "--json")):
        said = await asyncio.to_thread(process, *words, DATABASE_URL=database_url)
        assert (said.status, said.err) == (0, "")
        assert at in said.out


async def test_commands_find_the_embedded_database_that_runs(tmp_path: Path) -> None:
    data = {"DATA_DIR": str(tmp_path / "data")}
    running = Process("service", "", **data)
    try:
        async with aiohttp.ClientSession() as session:
            client = await running.up(session)
            assert (await asyncio.to_thread(process, "psql", "-qc", INVOICE, **data)).status == 0
            assert await client.enqueue("e1", 1, 4000) == (202, "queued")
        async with asyncio.timeout(20):
            while "partially_paid" not in (await asyncio.to_thread(process, "invoice", "1", **data)).out:
                await asyncio.sleep(0.1)
        said = await asyncio.to_thread(process, "doctor", **data)
        assert (said.status, bad(said)) == (0, [])
        assert "note  DATABASE_URL: login postgres is a superuser, as the embedded PostgreSQL has it" in said.out
        ask = "alter system set synchronous_standby_names = 'nobody'"
        await asyncio.to_thread(process, "psql", "-qc", ask, "-c", "select pg_reload_conf()", **data)
        async with asyncio.timeout(20):
            while not bad(said := await asyncio.to_thread(process, "doctor", **data)):
                await asyncio.sleep(0.1)
        assert bad(said)[0] == "replication: synchronous_standby_names is set, and no standby is there"
    finally:
        await running.end(signal.SIGINT)


INVOICE = "insert into invoices (id, amount) values (1, 10000)"


async def test_a_reader_that_has_seen_enough_ends_a_command_quietly(database_url: str, db: Connection) -> None:
    await db.execute(
        "select store_dead_letter('stripe', 'unreadable', repeat('x', 500), int4send(n)) from generate_series(1, 900) n"
    )
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "dead", "--limit", "900",
        env=os.environ | {"DATABASE_URL": database_url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stderr is not None
    assert (await running.stdout.readline()).startswith(b" id")
    running._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    assert await running.stderr.read() == b""
    assert await running.wait() == 128 + signal.SIGPIPE


def test_no_progress_is_drawn_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 10) as progress:
        progress(5)
    assert capfd.readouterr().err == ""


def test_progress_is_drawn_on_a_terminal_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("work", 10) as progress:
        progress(5)
    assert screen.getvalue() == "\r\x1b[Kwork [" + "#" * 15 + "." * 15 + "] 5 of 10\r\x1b[K"
