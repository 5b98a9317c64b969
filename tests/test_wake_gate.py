"""The gate between inserters and the listener on watch: no NOTIFY while it is awake, no wake lost while it sleeps."""

import asyncio
from collections.abc import AsyncIterator
from itertools import combinations
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from service import migrate
from tests import calls, sessions
from tests.calls import Event
from tests.conftest import Connect, Connection

GATE = "('payment_queue'::regclass::oid::integer, 1)"


class Listener:
    """The SQL end of a listener: it watches, closes the gate, looks once more, sleeps."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.heard: list[str] = []
        self._woken = asyncio.Event()

    async def listen(self) -> None:
        channel = await self.connection.fetchval("select queue_channel()")
        await self.connection.add_listener(channel, self._hear)

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self.heard.append(str(payload))
        self._woken.set()

    async def watch(self) -> bool:
        return bool(await self.connection.fetchval("select try_queue_watch()"))

    async def close_gate(self) -> bool:
        return bool(await self.connection.fetchval("select close_queue_gate()"))

    async def open_gate(self) -> bool:
        return bool(await self.connection.fetchval("select open_queue_gate()"))

    async def look(self) -> int:
        return int(await self.connection.fetchval("select count(*) from payment_queue"))

    async def woken(self) -> bool:
        """Whether a notification came or comes; it takes a moment after the commit."""
        try:
            await asyncio.wait_for(self._woken.wait(), 2)
        except TimeoutError:
            return False
        return True

    async def count_heard(self) -> int:
        """How many notifications came: one more of our own, sent behind them, shows that all have arrived."""
        self._woken.clear()
        before = self.heard.count("end")
        await self.connection.execute("select pg_notify(queue_channel(), 'end')")
        while self.heard.count("end") == before:
            assert await self.woken()
            self._woken.clear()
        return len(self.heard) - self.heard.count("end")


@pytest.fixture
async def listener(connect: Connect) -> Listener:
    """The listener on watch, awake."""
    listener = Listener(await connect())
    await listener.listen()
    assert await listener.watch()
    return listener


async def insert(connection: Connection, *ids: int) -> None:
    await connection.execute("insert into payment_queue (id) select unnest($1::bigint[])", ids)


async def test_an_insert_while_nobody_sleeps_sends_nothing(listener: Listener, db: Connection) -> None:
    await insert(db, 1)
    await insert(db, 2, 3)
    assert await listener.count_heard() == 0


async def test_an_insert_while_the_listener_sleeps_wakes_it(listener: Listener, db: Connection) -> None:
    assert await listener.close_gate()
    await insert(db, 1)
    assert await listener.woken()
    assert listener.heard == [""]


async def test_whatever_fills_the_queue_wakes_the_listener(listener: Listener, db: Connection) -> None:
    await calls.apply(db, Event("parked", 7), park=True)
    assert await listener.close_gate()
    assert await listener.count_heard() == 0
    await calls.add_invoice(db, 7)  # releases the parked event
    assert await listener.count_heard() == 1
    await calls.enqueue(db, Event("one", 7))
    assert await listener.count_heard() == 2
    await calls.enqueue_all(db, [Event(f"of many {n}", 7) for n in range(10)])
    assert await listener.count_heard() == 3
    await calls.apply(db, Event("posted", 7, 5000, reference="ch_1"))
    await calls.apply(db, Event("conflict", 7, 4000, reference="ch_1"))
    assert await listener.count_heard() == 3
    await db.execute("select retry_dead_letters('conflict')")
    assert await listener.count_heard() == 4


async def test_a_transaction_notifies_once_however_many_statements_insert(listener: Listener, db: Connection) -> None:
    assert await listener.close_gate()
    async with db.transaction():
        for first in range(0, 100, 10):
            await insert(db, *range(first, first + 10))
    assert await listener.count_heard() == 1


async def test_once_the_gate_is_open_again_an_insert_sends_nothing(listener: Listener, db: Connection) -> None:
    assert await listener.close_gate()
    assert await listener.open_gate()
    await insert(db, 1)
    assert await listener.count_heard() == 0
    assert await db.fetchval("select count(*) from pg_locks where locktype = 'advisory' and objsubid = 2") == 1  # watch


async def test_an_insert_of_no_rows_and_one_that_rolls_back_send_nothing(listener: Listener, db: Connection) -> None:
    assert await listener.close_gate()
    await db.execute("insert into payment_queue (id) select 1 where false")
    await db.execute("begin")
    await insert(db, 1)
    await db.execute("rollback")
    await db.execute("begin; savepoint inner_one")
    await insert(db, 1)
    await db.execute("rollback to inner_one; commit")
    assert await listener.count_heard() == 0


async def test_an_insert_of_no_rows_does_not_keep_the_listener_from_sleep(connect: Connect, listener: Listener) -> None:
    other = await connect()
    await other.execute("begin")
    await other.execute("insert into payment_queue (id) select 1 where false")
    assert await listener.close_gate()


async def test_the_gate_is_refused_within_moments_while_an_insert_is_in_flight(
    connect: Connect, listener: Listener
) -> None:
    inserter = await connect()
    for n, ending in enumerate(["commit", "rollback"]):
        await inserter.execute("begin")
        await insert(inserter, n)
        await listener.connection.execute("set statement_timeout = '5s'; set lock_timeout = '20s'")
        assert not await listener.close_gate()
        assert await listener.connection.fetchval("select current_setting('lock_timeout')") == "20s"
        await inserter.execute(ending)
        assert await listener.close_gate()
        assert await listener.open_gate()
    assert await listener.count_heard() == 0


async def test_newcomers_that_meet_the_listener_waiting_for_the_gate_notify(
    connect: Connect, listener: Listener, db: Connection
) -> None:
    """close_queue_gate() waits for 10 ms only; here the listener takes the same lock by hand and waits for long."""
    first, newcomer = await connect(), await connect()
    await first.execute("begin")
    await insert(first, 1)
    closing = await sessions.blocked(
        db, listener.connection, listener.connection.execute(f"select pg_advisory_lock{GATE}")
    )
    await insert(newcomer, 2)  # does not wait, and notifies
    await insert(first, 3)  # holds the gate already, and so does not
    await first.execute("commit")
    await closing
    assert await listener.look() == 3
    assert await listener.count_heard() == 1
    assert await listener.open_gate()


async def test_an_inserter_waits_for_no_listener_and_takes_one_lock_whatever_it_inserts(
    connect: Connect, listener: Listener, db: Connection
) -> None:
    inserter = await connect()
    await inserter.execute("set lock_timeout = '1ms'; set statement_timeout = '5s'")
    assert await listener.close_gate()
    await insert(inserter, -1)
    assert await listener.open_gate()
    await calls.add_invoice(db, 7)
    await inserter.execute("begin")
    for batch in range(3):
        await calls.enqueue_all(inserter, [Event(f"{batch}-{n}", 7) for n in range(50)])
    held = await db.fetch(
        "select mode from pg_locks where locktype = 'advisory' and pid = $1", inserter.get_server_pid()
    )
    assert [row["mode"] for row in held] == ["ShareLock"]
    await inserter.execute("commit")
    assert await db.fetchval("select count(*) from pg_locks where pid = $1", inserter.get_server_pid()) == 0


# No interleaving loses a wake


def interleavings(*sequences: list[str]) -> list[list[str]]:
    """All ways to merge these sequences of steps."""
    if len(sequences) == 1:
        return [sequences[0]]
    first, rest = sequences[0], interleavings(*sequences[1:])
    merged = []
    for other in rest:
        for places in combinations(range(len(first) + len(other)), len(first)):
            steps_of_first, steps_of_other = iter(first), iter(other)
            total = range(len(first) + len(other))
            merged.append([next(steps_of_first if n in places else steps_of_other) for n in total])
    return merged


async def play(listener: Listener, inserters: list[Connection], steps: list[str]) -> str:
    """Take the steps; return what makes sure that the listener knows of the events, or "lost"."""
    await listener.connection.execute("delete from payment_queue")
    listener.heard.clear()
    listener._woken.clear()
    closed, seen, asleep = False, 0, False
    for step in steps:
        who, _, what = step.partition(" ")
        if who == "listener":
            if what == "closes":
                closed = await listener.close_gate()
            elif what == "looks":
                seen = await listener.look()
            else:
                asleep = closed and not seen
        else:
            inserter = inserters[int(who)]
            if what == "inserts":
                await insert(inserter, int(who))
            else:
                await inserter.execute(what)
    committed = await listener.look()
    if not closed:
        return "refused"  # so it looks again soon
    told = await listener.woken() if asleep and committed else bool(listener.heard)
    await listener.open_gate()
    if seen:
        return "seen"  # so it goes to work, and looks again after that
    return "notified" if told else "lost" if committed else "nothing to do"


LISTENER = ["listener closes", "listener looks", "listener sleeps"]


async def test_no_interleaving_of_an_inserter_and_the_listener_loses_a_wake(
    connect: Connect, listener: Listener
) -> None:
    inserter = await connect()
    for steps in interleavings(["0 begin", "0 inserts", "0 commit"], LISTENER):
        ended = await play(listener, [inserter], steps)
        inserts, commits = steps.index("0 inserts"), steps.index("0 commit")
        closes, looks = steps.index("listener closes"), steps.index("listener looks")
        expected = "seen" if commits < looks else "notified"
        assert ended == ("refused" if inserts < closes < commits else expected), steps


async def test_no_interleaving_of_two_inserters_and_the_listener_loses_a_wake(
    connect: Connect, listener: Listener
) -> None:
    inserters = [await connect(), await connect()]
    ends = set()
    for steps in interleavings(["0 begin", "0 inserts", "0 commit"], ["1 inserts"], LISTENER):
        ended = await play(listener, inserters, steps)
        assert ended in {"seen", "notified", "refused"}, steps
        ends.add(ended)
    assert ends == {"seen", "notified", "refused"}


async def test_an_inserter_that_rolls_back_hides_no_other_from_the_listener(
    connect: Connect, listener: Listener
) -> None:
    inserters = [await connect(), await connect()]
    for steps in interleavings(["0 begin", "0 inserts", "0 rollback"], ["1 inserts"], LISTENER):
        assert await play(listener, inserters, steps) in {"seen", "notified", "refused"}, steps


# Who watches


async def test_one_listener_is_on_watch_and_the_next_takes_over_when_it_is_killed(
    connect: Connect, listener: Listener, db: Connection
) -> None:
    reserve = Listener(await connect())
    await reserve.listen()
    assert not await reserve.watch()
    assert await listener.close_gate()
    await db.fetchval("select pg_terminate_backend($1, 10000)", listener.connection.get_server_pid())
    assert await reserve.watch()
    await insert(db, 1)  # the gate went with its holder
    assert await reserve.count_heard() == 0
    assert await reserve.close_gate()
    await insert(db, 2)
    assert await reserve.count_heard() == 1


async def test_two_listeners_asleep_hear_one_insert_each(connect: Connect, listener: Listener, db: Connection) -> None:
    reserve = Listener(await connect())
    await reserve.listen()
    assert await listener.close_gate()
    await insert(db, 1)
    assert await reserve.woken()
    assert await listener.woken()
    assert (listener.heard, reserve.heard) == ([""], [""])


# Installations


@pytest.fixture
async def second(database_url: str) -> AsyncIterator[Connection]:
    """A connection to a second installation, in another schema of the same database."""
    url = f"{database_url}&options={quote('-csearch_path=billing')}"
    await migrate.up(url)
    connection: Connection = await asyncpg.connect(url)
    yield connection
    connection.terminate()


async def test_two_installations_in_one_database_do_not_wake_or_hold_up_each_other(
    listener: Listener, db: Connection, second: Connection, database_url: str
) -> None:
    assert await db.fetchval("select queue_channel()") != await second.fetchval("select queue_channel()")
    other = Listener(second)
    await other.listen()
    assert await other.watch()
    assert await listener.close_gate()
    inserter: Connection = await asyncpg.connect(database_url, server_settings={"search_path": "billing"})
    try:
        await insert(inserter, 1)
        await inserter.execute("begin")
        await insert(inserter, 2)
        assert await listener.open_gate()
        assert await listener.close_gate()  # whoever inserts into the other queue does not stand in our gate
        assert not await other.close_gate()
        await inserter.execute("commit")
        assert (await listener.count_heard(), await other.count_heard()) == (0, 0)
        assert await other.close_gate()
        await insert(inserter, 3)
        assert (await listener.count_heard(), await other.count_heard()) == (0, 1)
        assert (await listener.look(), await other.look()) == (0, 3)
    finally:
        await inserter.close()
