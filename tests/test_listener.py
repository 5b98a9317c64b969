"""The listener against a real PostgreSQL: awake in milliseconds, and nothing lost whatever breaks."""

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service import embedded, migrate
from service.database import QueueSession, RejectedError
from service.listener import LOSSES, Listener
from service.settings import Settings
from tests import calls, sessions
from tests.calls import Event, add_invoice, assert_consistent, whereabouts
from tests.conftest import Connection
from tests.http_service import Process

HOUR = 3600.0  # a poll interval that leaves NOTIFY alone to wake the listener
BACKENDS = "from pg_stat_activity where application_name = 'payment_webhooks listener' and datname = current_database()"
GATE = "select pid from pg_locks where locktype = 'advisory' and objsubid = 2 and objid = 1 and mode = 'ExclusiveLock'"
WATCH = "select pid from pg_locks where locktype = 'advisory' and objsubid = 2 and objid = 2 and granted"
KEEP_GATE_OPEN = "select pg_advisory_lock_shared('payment_queue'::regclass::oid::integer, 1)"
HELD = """
    select count(*) from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and d.datname = current_database()
"""


@contextlib.asynccontextmanager
async def listening(url: str, **values: Any) -> AsyncIterator[Listener]:
    """A listener in this loop, on duty."""
    stop = asyncio.Event()
    listener = Listener(Settings(database_url=url, **values), stop)
    task = asyncio.create_task(listener.run())
    try:
        async with asyncio.timeout(10):
            while await listener.unready() is not None and not task.done():
                await asyncio.sleep(0.005)
        yield listener
    finally:
        stop.set()
        await task


async def enqueue(db: Connection, *names: str) -> None:
    await calls.enqueue_all(db, [Event(name, 1, 1) for name in names])


async def applied(db: Connection) -> None:
    """Wait until the queue is empty."""
    await sessions.until(lambda: db.fetchval("select not exists (select from payment_queue)"))


async def seconds_to_apply(db: Connection, *names: str) -> float:
    await enqueue(db, *names)
    started = time.perf_counter()
    await applied(db)
    return time.perf_counter() - started


async def ready(process: Process) -> str:
    """Wait for /readyz; return the metrics."""
    url = f"http://127.0.0.1:{process.admin_port}"
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while process.process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        break
            await asyncio.sleep(0.02)
        async with session.get(f"{url}/metrics") as response:
            return await response.text()


@pytest.fixture
async def invoice(db: Connection) -> None:
    await add_invoice(db, 1, amount=10**12)


pytestmark = pytest.mark.usefixtures("invoice")


async def test_an_event_is_applied_tens_of_milliseconds_after_its_commit(database_url: str, db: Connection) -> None:
    async with listening(database_url, poll_interval=HOUR):
        took = []
        for number in range(40):
            await asyncio.sleep(random.choice([0, 0.005, 0.01, 0.012, 0.03]))  # noqa: S311 - in all states
            took.append(await seconds_to_apply(db, f"e{number}"))
    assert sorted(took)[20] < 0.05
    assert max(took) < 1
    await assert_consistent(db)


async def test_a_listener_with_nothing_to_do_asks_nothing_between_two_polls(database_url: str, db: Connection) -> None:
    async with listening(database_url, poll_interval=HOUR):
        await seconds_to_apply(db, "e1")
        await asyncio.sleep(0.2)
        before = await db.fetch(f"select query_start, state_change, state {BACKENDS}")
        await asyncio.sleep(1)
        assert await db.fetch(f"select query_start, state_change, state {BACKENDS}") == before
        assert [row["state"] for row in before] == ["idle"]


async def test_events_that_commit_out_of_order_or_beside_a_long_transaction_do_not_wait(
    database_url: str, db: Connection, connect: Any
) -> None:
    long = await connect()
    async with listening(database_url, poll_interval=HOUR):
        await long.execute("begin")
        await enqueue(long, "first")
        took = [await seconds_to_apply(db, f"e{number}") for number in range(20)]
        await long.execute("commit")
        started = time.perf_counter()
        await applied(db)
    assert sorted(took)[10] < 0.1
    assert time.perf_counter() - started < 0.5


async def test_released_events_are_applied_at_once_though_their_ids_are_old(database_url: str, db: Connection) -> None:
    async with listening(database_url, poll_interval=HOUR):
        await calls.apply(db, Event("early", 7), park=True)
        await seconds_to_apply(db, *(f"e{number}" for number in range(50)))
        await add_invoice(db, 7)
        async with asyncio.timeout(1):
            await applied(db)
    assert await whereabouts(db, "early") == ("processed", "posted")


async def test_a_poll_finds_what_nobody_told_of(database_url: str, db: Connection) -> None:
    async with listening(database_url, poll_interval=0.3):
        await db.execute("alter table payment_queue disable trigger user")
        assert await seconds_to_apply(db, "e1") < 0.5


@contextlib.asynccontextmanager
async def watch_and_reserve(url: str) -> AsyncIterator[tuple[Process, Process]]:
    first = Process("service.listener", url, POLL_INTERVAL="0.5")
    await ready(first)
    second = Process("service.listener", url, POLL_INTERVAL="0.5")
    try:
        await ready(second)
        yield first, second
    finally:
        await first.end(signal.SIGKILL)
        assert (await second.end())[0] == 0


@pytest.mark.parametrize("moment", ["asleep", "awake", "at the gate"])
async def test_the_watch_passes_on_when_its_listener_is_killed(
    database_url: str, db: Connection, connect: Any, moment: str
) -> None:
    other = await connect()
    await db.execute(sessions.HOLD_AT_ONCE)
    async with watch_and_reserve(database_url) as (first, _):
        await sessions.until(lambda: db.fetchval(GATE))
        watch = await db.fetchval(WATCH)
        if moment != "asleep":
            await other.execute("select pg_advisory_lock(4711)" if moment == "awake" else KEEP_GATE_OPEN)
            await enqueue(db, "e0")
            waits = f"select pid {BACKENDS} and pid = {watch} and wait_event = 'advisory'"
            await sessions.until(lambda: db.fetchval(waits))
        first.process.kill()
        await other.execute("select pg_advisory_unlock_all()")
        assert await seconds_to_apply(db, "e1") < 1.5
        await sessions.until(lambda: db.fetchval(f"select exists ({WATCH} and pid <> {watch})"))
        assert await seconds_to_apply(db, "e2") < 0.5
    await assert_consistent(db)


async def test_others_carry_on_while_the_watch_is_stopped_in_its_sleep(database_url: str, db: Connection) -> None:
    async with watch_and_reserve(database_url) as (first, _):
        await sessions.until(lambda: db.fetchval(GATE))
        first.process.send_signal(signal.SIGSTOP)
        assert max([await seconds_to_apply(db, f"e{number}") for number in range(3)]) < 1.5
        first.process.send_signal(signal.SIGCONT)
        assert await seconds_to_apply(db, "e") < 1.5
        assert first.process.poll() is None
    await assert_consistent(db)


async def test_the_clock_of_its_machine_decides_nothing(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    await db.execute("""
        create function fail_once() returns trigger language plpgsql as $$
        begin
            if (select attempts = 0 from payment_queue) then raise 'once'; end if;
            return new;
        end $$;
        create trigger fail_once before update on invoices for each row execute function fail_once();
    """)
    async with listening(database_url, poll_interval=HOUR):
        assert 0.5 < await seconds_to_apply(db, "e1") < 3


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"payment_webhooks_listener_{name}", labels) or 0


async def test_a_wake_is_counted_by_what_caused_it(database_url: str, db: Connection) -> None:
    causes = ("notify", "lost", "poll")
    before = [metric("wakeups_total", cause=cause) for cause in causes]
    connections, heard = metric("connections_total"), metric("wake_seconds_count")
    async with listening(database_url, poll_interval=HOUR):
        await sessions.until(lambda: db.fetchval(GATE))
        await asyncio.sleep(0.05)
        await seconds_to_apply(db, "e1")
        await sessions.until(lambda: db.fetchval(GATE))
        await asyncio.sleep(0.05)
        await db.execute(f"select pg_terminate_backend(pid, 1000) {BACKENDS}")
        await sessions.until(lambda: db.fetchval(GATE))
    after = [metric("wakeups_total", cause=cause) for cause in causes]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 0]
    assert metric("wake_seconds_count") - heard == 1
    assert metric("connections_total") - connections == 2


async def test_a_terminated_backend_is_replaced_at_once(database_url: str, db: Connection) -> None:
    async with listening(database_url, poll_interval=HOUR):
        for number in range(5):
            await db.execute(f"select pg_terminate_backend(pid) {BACKENDS}")
            assert await seconds_to_apply(db, f"e{number}") < 1
        await sessions.until(lambda: db.fetchval(WATCH))


class Proxy:
    """Passes TCP on to the database's socket until it is told to swallow everything."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self._database = parts.path
        self._socket = parse_qs(parts.query)["host"][0] + "/.s.PGSQL.5432"
        self._swallowing = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}{self._database}?sslmode=disable"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            await writer.wait_closed()

    def swallow(self) -> None:
        """From now on the connections that exist pass nothing on, not even their end; new ones are fine."""
        self._swallowing = len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_database, to_database = await asyncio.open_unix_connection(self._socket)
        self._writers += [to_database, writer]
        number = len(self._writers)
        for source, sink in ((reader, to_database), (from_database, writer)):
            self._tasks.add(asyncio.create_task(self._pass(source, sink, number)))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, number: int) -> None:
        while data := await source.read(65536):
            if number > self._swallowing:
                sink.write(data)
        if number > self._swallowing:
            sink.close()


async def test_a_connection_that_hears_nothing_any_more_is_noticed_and_replaced(
    database_url: str, db: Connection
) -> None:
    async with Proxy(database_url) as proxy, listening(proxy.url, poll_interval=0.5) as listener:
        await sessions.until(lambda: db.fetchval(GATE))
        await asyncio.sleep(0.05)  # asleep
        first = await db.fetchval(WATCH)
        proxy.swallow()
        assert await seconds_to_apply(db, "e1") < 0.5 + 2 + 1
        await sessions.until(lambda: db.fetchval(WATCH))
        assert await db.fetchval(WATCH) != first  # the backend behind the dead connection is gone with its watch
        assert await db.fetchval(f"select count(*) {BACKENDS}") == 1
        assert listener.session.opened == 2


POISON = """
    create function poison() returns trigger language plpgsql security definer as $$
    begin
        {what}
        return null;
    end $$;
    create constraint trigger poison after update on invoices {when} for each row when (new.id = 666)
        execute function poison();
"""
DEFERRED = "deferrable initially deferred"
STATEMENT_TIMEOUT = (
    "do $$ begin execute format('alter database %I set statement_timeout = 200', current_database()); end $$"
)


@pytest.mark.parametrize(
    ("what", "when", "error"),
    [
        ("raise 'the shop is closed';", "", "the shop is closed (SQLSTATE P0001)"),
        ("raise 'the shop is closed';", DEFERRED, "the shop is closed (SQLSTATE P0001)"),
        ("perform pg_sleep(9);", "", "its transaction failed as a whole: QueryCanceledError (SQLSTATE 57014)"),
        (
            "perform pg_terminate_backend(pg_backend_pid()), pg_sleep(1);",
            "",
            "its transaction failed as a whole: ConnectionDoesNotExistError (SQLSTATE 08003)",
        ),
    ],
    ids=["raises", "raises at commit", "runs into the time-out", "kills its backend"],
)
async def test_an_event_that_spoils_every_batch_ends_alone_and_dead(
    database_url: str, db: Connection, what: str, when: str, error: str
) -> None:
    await add_invoice(db, 666)
    await db.execute(POISON.format(what=what, when=when))
    if "sleep(9)" in what:
        await db.execute(STATEMENT_TIMEOUT)
    events = [Event(f"e{number}", 1, 1) for number in range(600)]
    events[333] = Event("poison", 666, 1)
    await calls.enqueue_all(db, events)
    async with listening(database_url, poll_interval=0.5, max_attempts=2, batch_size=200):
        await sessions.until(lambda: db.fetchval("select count(*) = 599 from payments"))
        await sessions.until(lambda: db.fetchval("select exists (select from open_dead_letters)"))
        assert await seconds_to_apply(db, "next") < 0.5
    assert await calls.rows_of(db, "select reason::text, detail from open_dead_letters") == [
        ("attempts_exhausted", error)
    ]
    await assert_consistent(db)


@contextlib.asynccontextmanager
async def logged(capsys: pytest.CaptureFixture[str], url: str, **values: Any) -> AsyncIterator[list[str]]:
    """A listener, and at the end the lines that it logged."""
    lines: list[str] = []
    async with listening(url, **values):
        yield lines
    lines += capsys.readouterr().out.splitlines()


SLOW_HEALTH = """
    create or replace view queue_health as
    select queued + length(pg_sleep(60)::text) as queued, retrying, longest_overdue, parked, parked_since, dead
    from (select 0::bigint queued, 0::bigint retrying, interval '0' longest_overdue, 0::bigint parked,
                 null::timestamptz parked_since, 0::bigint dead) h
"""


async def test_a_slow_measurement_costs_work_two_seconds_at_most(
    database_url: str, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await db.execute(SLOW_HEALTH)
    await enqueue(db, *(f"e{number}" for number in range(1000)))
    async with logged(capsys, database_url, poll_interval=0.5) as lines:
        assert await db.fetchval("select count(*) from payments") == 1000
        took = [await seconds_to_apply(db, f"next{number}") for number in range(10)]
        watch = await db.fetchval(WATCH)
        await sessions.until(lambda: db.fetchval(f"select exists (select {BACKENDS} and state = 'idle')"))
        took += [await seconds_to_apply(db, f"more{number}") for number in range(20)]
        assert await db.fetchval(WATCH) == watch
    assert max(took) < 2.5
    assert sorted(took)[15] < 0.1
    assert sum("queue_not_measured" in line for line in lines) == 1


async def test_a_look_at_parked_events_that_takes_too_long_is_blamed_on_no_event(
    database_url: str, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await db.execute("""
        create or replace function find_released_events(p_ids bigint[]) returns bigint[]
        language plpgsql as $$ begin perform pg_sleep(60); return '{}'; end $$
    """)
    async with logged(capsys, database_url, poll_interval=0.5) as lines:
        assert max([await seconds_to_apply(db, f"e{number}") for number in range(50)]) < 2.5
        watch = await db.fetchval(WATCH)
        assert await seconds_to_apply(db, "e") < 0.5
        assert await db.fetchval(WATCH) == watch
    assert sum("parked_events_not_looked_at" in line for line in lines) == 1
    assert not any("batch_failed" in line for line in lines)


async def test_what_has_failed_is_tried_again_when_it_is_due(database_url: str, db: Connection) -> None:
    await db.execute("""
        create sequence tries;
        create function fail_thrice() returns trigger language plpgsql security definer as $$
        begin
            if nextval('tries') <= 3 then raise exception 'not yet'; end if;
            return new;
        end $$;
        create trigger fail_thrice before update on invoices for each row execute function fail_thrice();
    """)
    due = None
    async with listening(database_url, poll_interval=HOUR):
        await enqueue(db, "e1")
        while row := await db.fetchrow("select attempts, next_attempt_at from payment_queue"):
            due = row["next_attempt_at"]
            await asyncio.sleep(0.02)
    late = await db.fetchval("select posted_at - $1 from payments", due)
    assert late.total_seconds() < 0.3
    assert await db.fetchval("select last_value from tries") == 4


async def test_a_long_look_at_parked_events_goes_by_slices_and_lets_work_through(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.database.SLICE", 3)
    await db.execute("alter table invoices disable trigger invoices_release")
    await calls.enqueue_all(db, [Event(f"e{number}", 100 + number, 1) for number in range(20)], park=True)
    await calls.drain(db)
    await db.execute("""
        insert into invoices (id, amount) select 100 + n, 1 from generate_series(0, 19) n
    """)
    body = await db.fetchval("select pg_get_functiondef('find_released_events'::regproc)")
    await db.execute(body.replace("begin", "begin perform pg_sleep(0.2);", 1).replace(" STABLE", ""))
    async with listening(database_url, poll_interval=0.5):
        assert max([await seconds_to_apply(db, f"next{number}") for number in range(10)]) < 0.5
        await sessions.until(lambda: db.fetchval("select not exists (select from parked_events)"))
        await applied(db)
    assert await db.fetchval("select count(*) from payments") == 30


async def test_an_event_that_hangs_costs_three_time_outs_until_it_stands_alone(
    database_url: str, db: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await add_invoice(db, 666)
    await db.execute(POISON.format(what="perform pg_sleep(9);", when=""))
    await db.execute(STATEMENT_TIMEOUT)
    events = [Event(f"e{number}", 1, 1) for number in range(1200)]
    events[5] = Event("poison", 666, 1)
    await calls.enqueue_all(db, events)
    async with logged(capsys, database_url, poll_interval=HOUR, max_attempts=1) as lines:
        await sessions.until(lambda: db.fetchval("select count(*) = 1199 from payments"))
        await sessions.until(lambda: db.fetchval("select exists (select from open_dead_letters)"))
    assert [line.partition("events=")[2].split()[0] for line in lines if "batch_failed" in line] == ["500", "31", "1"]
    [failed] = [line for line in lines if "event_failed" in line]
    assert "retry_dead_letter" in failed


async def test_a_restart_counts_no_attempt_against_the_event_in_hand(database_url: str, db: Connection) -> None:
    await db.execute(sessions.HOLD_AT_ONCE)
    await db.execute("select pg_advisory_lock(4711)")
    in_hand = f"select pid {BACKENDS} and wait_event = 'advisory' and query like '%process%'"
    async with listening(database_url, poll_interval=HOUR, batch_size=1):
        await enqueue(db, "e1")
        for _ in range(LOSSES):
            await sessions.until(lambda: db.fetchval(in_hand))
            await db.execute(f"select pg_terminate_backend(pid, 1000) {BACKENDS}")
        await sessions.until(lambda: db.fetchval(in_hand))
        assert await db.fetchval("select attempts from payment_queue") == 0
        await db.execute("select pg_advisory_unlock(4711)")
        await applied(db)


async def test_a_connection_whose_set_up_fails_is_closed(database_url: str, db: Connection, connect: Any) -> None:
    other = await connect()
    started = "select backend_start from pg_stat_activity where pid = $1"
    async with sessions.member_of(db, "pg_read_all_stats") as login:
        session = QueueSession(
            database_url.replace("postgres@", f"{login}@"), "payment_webhooks listener", print, lambda: None
        )
        session._backend = (other.get_server_pid(), await db.fetchval(started, other.get_server_pid()))
        with pytest.raises(RejectedError):  # a superuser's, which this login must not end
            await session.connection()
        await sessions.until(lambda: db.fetchval(f"select count(*) = 0 {BACKENDS}"))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://user:secret@db.example:5433/payments?sslmode=require", ("db.example:5433", "payments")),
        ("postgresql://user@one:5432,two:5432/payments", ("one:5432,two:5432", "payments")),
        ("postgres:///payments?host=%2Frun%2Fpg&password=secret", ("/run/pg", "payments")),
        ("postgres://user:secret@[::1]", ("[::1]", "")),
        ("postgres://user:sec/secret@host/payments", ()),
        ("postgres://user:sec?secret@host/payments", ()),
        ("postgres://user:sec#secret@host/payments", ()),
        ("postgres://user:sec@secret@host/payments", ()),
    ],
)
def test_a_log_line_names_host_and_database_and_never_the_password(url: str, place: tuple[str, ...]) -> None:
    assert tuple(QueueSession(url, "", print, lambda: None).place.values()) == place


async def test_sigterm_lets_the_batch_commit_and_leaves_nothing_locked(database_url: str, db: Connection) -> None:
    await enqueue(db, *(f"e{number}" for number in range(20_000)))
    process = Process("service.listener", database_url, BATCH_SIZE="100")
    await sessions.until(lambda: db.fetchval("select exists (select from payments)"))
    status, said = await process.end()
    assert (status, "Traceback" in said) == (0, False), said
    assert await db.fetchval(f"select count(*) {BACKENDS}") == 0
    assert await db.fetchval(HELD) == 0
    left = await db.fetch("select id from payment_queue for update nowait")
    assert 0 < len(left) < 20_000
    await assert_consistent(db)


async def test_sigkill_loses_nothing(database_url: str, db: Connection) -> None:
    await enqueue(db, *(f"e{number}" for number in range(5_000)))
    process = Process("service.listener", database_url, BATCH_SIZE="100")
    await sessions.until(lambda: db.fetchval("select exists (select from payments)"))
    await process.end(signal.SIGKILL)
    left = await db.fetchval("select count(*) from payment_queue")
    assert left > 0
    async with listening(database_url, poll_interval=HOUR):
        await applied(db)
    assert await sessions.paid(db) == 5_000
    await assert_consistent(db)


async def test_its_metrics_tell_what_happened(database_url: str, db: Connection) -> None:
    await enqueue(db, "e1", "e2")
    process = Process("service.listener", database_url)
    async with asyncio.timeout(10):  # it measures after the work, and is ready before
        while 'payment_webhooks_queue_events{state="queued"}' not in (metrics := await ready(process)):
            await asyncio.sleep(0.02)
    _, said = await process.end()
    assert f"database={await db.fetchval('select current_database()')}" in said
    assert 'payment_webhooks_events_total{outcome="applied"} 2.0' in metrics
    assert "payment_webhooks_listener_watch 1.0" in metrics


async def test_the_role_listener_suffices(database_url: str, db: Connection) -> None:
    role = await db.fetchval("select quote_ident(role_name('listener'))")
    async with (
        sessions.member_of(db, role) as login,
        listening(database_url.replace("postgres@", f"{login}@"), poll_interval=HOUR) as listener,
    ):
        assert listener.watching
        assert await seconds_to_apply(db, "e1") < 1
        await db.execute(f"select pg_terminate_backend(pid) {BACKENDS}")
        assert await seconds_to_apply(db, "e2") < 1


async def test_a_login_of_another_role_is_told_which_it_needs(database_url: str, db: Connection) -> None:
    role = await db.fetchval("select quote_ident(role_name('server'))")
    async with sessions.member_of(db, role) as login:
        stop = asyncio.Event()
        listener = Listener(Settings(database_url=database_url.replace("postgres@", f"{login}@")), stop)
        task = asyncio.create_task(listener.run())
        while "_listener" not in str(await listener.unready()):
            await asyncio.sleep(0.01)
        stop.set()
        await task


@pytest.mark.parametrize(
    ("there", "instead", "told"),
    [
        ("//postgres@", "//nobody@", "role <database>_<schema>_listener"),
        ("@/[^?]*", "@/nowhere", "no database of this name"),
    ],
)
async def test_a_login_or_a_database_that_is_not_there_is_told(
    database_url: str, there: str, instead: str, told: str
) -> None:
    stop = asyncio.Event()
    elsewhere = re.sub(there, instead, database_url)
    with capture_logs() as said:
        listener = Listener(Settings(database_url=elsewhere), stop)
        task = asyncio.create_task(listener.run())
        while told not in str(await listener.unready()):
            await asyncio.sleep(0.01)
        stop.set()
        await task
    assert told in said[0]["error"]


async def test_it_is_not_ready_while_the_schema_is_older_than_the_service(database_url: str, db: Connection) -> None:
    stop = asyncio.Event()
    listener = Listener(Settings(database_url=database_url, poll_interval=0.3), stop)
    await db.execute("create or replace function schema_version() returns text language sql as $$ select '1' $$")
    connections = metric("connections_total")
    task = asyncio.create_task(listener.run())
    await enqueue(db, "e1")
    await asyncio.sleep(0.5)
    assert metric("connections_total") - connections == 1
    assert "run dbmate --env-file dbmate.env up" in str(await listener.unready())
    assert await db.fetchval("select count(*) from payments") == 0
    stop.set()
    await task


async def test_a_listener_that_stays_deaf_works_at_its_polls(database_url: str, db: Connection) -> None:
    async with listening(database_url, poll_interval=0.5) as listener:
        listener.session._hear = lambda _: None
        started_at = await db.fetchval("select now()")
        for number in range(3):
            assert await seconds_to_apply(db, f"e{number}") < 0.5 + 2 + 1.5  # a new connection each time
        alive = "select seen_at - interval '2 s' > $1 from listeners"
        await sessions.until(lambda: db.fetchval(alive, started_at))


async def test_a_full_notification_queue_costs_speed_only(tmp_path: Path, bin_dir: Path | None) -> None:
    with embedded.start(tmp_path / "pg", bin_dir=bin_dir, settings={"fsync": "off"}) as server:
        db: Connection = await asyncpg.connect(server.url)
        version = int(await db.fetchval("show server_version_num"))
        await db.close()
    if version < 170000:
        pytest.skip("the queue cannot be made small")
    with embedded.start(tmp_path / "pg", bin_dir=bin_dir, settings={"max_notify_queue_pages": "64"}) as server:
        await migrate.up(server.url)
        db, laggard = [await asyncpg.connect(server.url) for _ in range(2)]
        await add_invoice(db, 1)
        async with listening(server.url, poll_interval=0.5):
            await laggard.execute("listen anything")
            await laggard.execute("begin; select 1")
            with pytest.raises(asyncpg.ProgramLimitExceededError):
                await db.execute("select pg_notify('anything', repeat(n::text, 1000)) from generate_series(1, 500) n")
            for number in range(3):
                assert await seconds_to_apply(db, f"e{number}") < 0.5 + 1
            await laggard.execute("commit")
            await seconds_to_apply(db, "heard again")
        await db.close()
        await laggard.close()


async def test_it_does_not_start_without_a_database_url() -> None:
    process = Process("service.listener", "mysql://")
    said = await asyncio.to_thread(process.process.communicate, timeout=20)
    assert process.process.returncode == 1
    assert "DATABASE_URL" in said[0]


async def load(url: str, sender: int, stop: asyncio.Event, sent: set[str]) -> None:
    """Enqueue until `stop`, each event until its commit is confirmed."""
    number = 0
    db: Connection | None = None
    while not stop.is_set():
        name = f"{sender}-{number}"
        try:
            if db is None or db.is_closed():
                db = await asyncpg.connect(url)
            await calls.enqueue(db, Event(name, 1, 1))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            db = None
            await asyncio.sleep(0.05)
            continue
        sent.add(name)
        number += 1
        if number % 50 == 0:
            await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - so that listeners fall asleep
    if db is not None:
        await db.close()


async def test_every_event_is_applied_once_whatever_is_killed(tmp_path: Path, bin_dir: Path | None) -> None:
    rounds = int(os.environ.get("CHAOS_ROUNDS", "8"))
    database = embedded.start(tmp_path / "pg", bin_dir=bin_dir)
    processes: list[Process] = []
    try:
        await migrate.up(database.url)
        db = await asyncpg.connect(database.url)
        await add_invoice(db, 1, amount=10**12)
        processes = [Process("service.listener", database.url, POLL_INTERVAL="0.5") for _ in range(2)]
        stop, sent = asyncio.Event(), set[str]()
        senders = [asyncio.create_task(load(database.url, n, stop, sent)) for n in range(4)]
        for number in range(rounds):
            await asyncio.sleep(random.uniform(0.2, 0.8))  # noqa: S311 - moments
            if number % 4 == 3:
                await asyncio.to_thread(database.stop)
                database = embedded.start(tmp_path / "pg", bin_dir=bin_dir)
                db = await asyncpg.connect(database.url)
            elif number % 2:
                await processes[0].end(signal.SIGKILL)
                processes = [processes[1], Process("service.listener", database.url, POLL_INTERVAL="0.5")]
            else:
                await db.execute(f"select pg_terminate_backend(pid) {BACKENDS}")
        stop.set()
        await asyncio.gather(*senders)
        started = time.perf_counter()
        await applied(db)
        assert time.perf_counter() - started < 3
        for process in processes:
            await ready(process)
            assert (await process.end())[0] == 0
        assert await sessions.paid(db) == len(sent) == await db.fetchval("select count(*) from payments")
        assert await db.fetchval(HELD) == 0
        await assert_consistent(db)
        await db.close()
    finally:
        for process in processes:
            process.process.kill()
        database.stop()


async def test_a_table_that_somebody_locks_is_no_events_fault(database_url: str, db: Connection) -> None:
    with capture_logs() as said:

        async def told(error: str) -> bool:
            return any(line.get("error") == error for line in said)

        async with listening(database_url):
            async with db.transaction():
                await db.execute("lock table payments in share mode")  # as CREATE INDEX does
                pid = await db.fetchval("select pg_backend_pid()")
                other = await asyncpg.connect(database_url)
                await enqueue(other, "e1")
                await other.close()
                await sessions.until(lambda: told(f"process {pid} has locked table payments, or waits to"))
            await applied(db)
    assert await whereabouts(db, "e1") == ("processed", "posted")
    assert not any(line["event"] in {"batch_failed", "event_failed"} for line in said)


async def test_a_lock_elsewhere_keeps_no_event_from_its_application(database_url: str, db: Connection) -> None:
    await add_invoice(db, 2)
    await db.execute("""
        create table customers (id int);
        create function hang() returns trigger language plpgsql as $$
        begin if new.id = 2 then perform pg_sleep(60); end if; return new; end $$;
        create trigger hang before update on invoices for each row execute function hang()""")
    other = await asyncpg.connect(database_url)
    async with db.transaction():
        await db.execute("lock table customers in share mode")
        async with listening(database_url):
            await calls.enqueue_all(other, [Event("hangs", 2, 1), Event("e1", 1, 1)])
            started = time.monotonic()
            while await whereabouts(other, "e1") != ("processed", "posted"):
                assert time.monotonic() < started + 16  # two time-outs of 5 s, one of 1 s
                await asyncio.sleep(0.1)
    await other.close()
