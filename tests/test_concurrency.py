"""Many sessions at once: each event posts once, nobody deadlocks, and nobody waits for what is not his."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import chain, count, product
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service import embedded, migrate
from tests import calls, sessions
from tests.calls import Event
from tests.conftest import Connect, Connection
from tests.sessions import assert_right

Report = Callable[[Connection, Event], Coroutine[Any, Any, str]]


async def apply_one(connection: Connection, event: Event) -> str:
    return str((await calls.apply(connection, event))["outcome"])


async def apply_in_batch(connection: Connection, event: Event) -> str:
    return str((await calls.apply_all(connection, [event]))[0]["outcome"])


async def enqueue_one(connection: Connection, event: Event) -> str:
    return str((await calls.enqueue(connection, event))["outcome"])


async def enqueue_in_batch(connection: Connection, event: Event) -> str:
    return str((await calls.enqueue_all(connection, [event]))[0]["outcome"])


APPLY: list[Report] = [apply_one, apply_in_batch]
WAYS: list[Report] = [*APPLY, enqueue_one, enqueue_in_batch]


# Exactly once


async def report_100_times(connect: Connect, event: Event) -> Counter[str]:
    """The answers to 20 connections that report it five times each, in every way, all at once."""
    connections = [await connect() for _ in range(20)]

    async def five_times(connection: Connection, first: int) -> list[str]:
        return [await WAYS[(first + n) % len(WAYS)](connection, event) for n in range(5)]

    return Counter(chain(*await asyncio.gather(*map(five_times, connections, range(20)))))


async def test_the_same_event_100_times_from_20_connections_at_once_posts_once(
    connect: Connect, db: Connection
) -> None:
    await calls.add_invoice(db, 1)
    answers = await report_100_times(connect, Event("e1", 1, 5000, reference="ch_1"))
    assert set(answers) <= {"applied", "queued", "duplicate"}
    assert answers["applied"] == 1  # also where it had been queued before: that is no duplicate
    assert answers["queued"] <= 1
    assert answers.total() == 100
    await assert_right(db)
    assert await sessions.times_posted(db) == {"e1": 1}
    assert await calls.balance(db, 1) == ("partially_paid", 5000, 0, 0)


async def test_the_same_event_100_times_beside_two_workers_posts_once(connect: Connect, db: Connection) -> None:
    await calls.add_invoice(db, 1)
    reporting = asyncio.create_task(report_100_times(connect, Event("e1", 1, 5000)))

    async def work(worker: Connection) -> int:
        applied = 0
        while not reporting.done():
            applied += (await calls.process(worker))["applied"]
        return applied

    by_workers = sum(await asyncio.gather(*[work(await connect()) for _ in range(2)]))
    answers = await reporting
    assert set(answers) <= {"applied", "queued", "duplicate"}
    assert answers["applied"] + by_workers <= 1
    await assert_right(db)
    assert await sessions.times_posted(db) == {"e1": 1}
    assert await sessions.paid(db) == 5000


async def test_of_two_reports_of_one_movement_at_once_the_second_waits_for_what_becomes_of_the_first(
    connect: Connect, db: Connection
) -> None:
    first, second = await connect(), await connect()
    numbers = count(1)
    for first_way, second_way in product(APPLY, APPLY):
        for same_invoice, ending, answer in [
            (True, "commit", "duplicate"),
            (True, "rollback", "applied"),
            (False, "commit", "conflict"),
            (False, "rollback", "applied"),
        ]:
            n = next(numbers)
            invoices = (2 * n, 2 * n) if same_invoice else (2 * n, 2 * n + 1)
            for invoice_id in set(invoices):
                await calls.add_invoice(db, invoice_id)
            await first.execute("begin")
            assert await first_way(first, Event(f"{n}-a", invoices[0], 5000, reference=f"ch_{n}")) == "applied"
            waiting = await sessions.blocked(
                db, second, second_way(second, Event(f"{n}-b", invoices[1], 5000, reference=f"ch_{n}"))
            )
            await first.execute(ending)
            assert await waiting == answer, (first_way, second_way, same_invoice, ending)
            assert sum([await sessions.paid(db, invoice_id) for invoice_id in set(invoices)]) == 5000
    await assert_right(db)


async def test_an_event_whose_first_report_rolls_back_is_taken_from_the_second(
    connect: Connect, db: Connection
) -> None:
    first, second = await connect(), await connect()
    for n, (first_way, second_way) in enumerate(product(WAYS, WAYS)):
        await calls.add_invoice(db, n)
        event = Event(f"e{n}", n, 5000)
        await first.execute("begin")
        await first_way(first, event)
        waiting = await sessions.blocked(db, second, second_way(second, event))
        await first.execute("rollback")
        assert await waiting == ("applied" if second_way in APPLY else "queued"), (first_way, second_way)
    await assert_right(db)
    assert set((await sessions.times_posted(db)).values()) == {1}
    assert await db.fetchval("select sum(amount_paid) from invoices") == 5000 * 16


async def test_a_transaction_that_rolls_back_half_way_leaves_nothing(connect: Connect, db: Connection) -> None:
    await calls.add_invoice(db, 1)
    caller = await connect()
    await caller.execute("begin")
    assert await apply_one(caller, Event("e1", 1, 1000)) == "applied"
    await caller.execute("savepoint half_way")
    assert await apply_in_batch(caller, Event("e2", 1, 2000)) == "applied"
    assert await enqueue_one(caller, Event("e3", 1, 3000)) == "queued"
    assert (await calls.process(caller))["applied"] == 1
    assert await calls.balance(caller, 1) == ("partially_paid", 6000, 0, 0)
    await caller.execute("rollback to half_way")
    assert await calls.balance(caller, 1) == ("partially_paid", 1000, 0, 0)
    await caller.execute("rollback")
    assert await calls.counts(db, "payment_events", "payments", "payment_queue", "dead_letters") == [0, 0, 0, 0]
    assert await calls.balance(db, 1) == ("sent", 0, 0, 0)


async def test_an_event_still_queued_is_applied_by_the_call_although_a_worker_has_claimed_it(
    connect: Connect, db: Connection
) -> None:
    worker = await connect()
    for n, way in enumerate(APPLY):
        await calls.add_invoice(db, n)
        await calls.enqueue(db, Event(f"e{n}", n, 5000))
        await worker.execute("begin")
        claimed = await worker.fetchval("select claim_payment_events()")
        assert len(claimed) == 1
        assert await way(db, Event(f"e{n}", n, 5000)) == "applied"
        row = await worker.fetchrow("select * from process_claimed_events($1)", claimed)
        await worker.execute("commit")
        assert row is not None
        assert (row["applied"], row["duplicates"], row["failed"]) == (0, 1, 0)
        assert await calls.counts(db, "payment_queue", "payments") == [0, n + 1]
        assert await sessions.paid(db, n) == 5000
    await assert_right(db)


async def test_a_call_waits_for_the_worker_that_is_applying_the_same_event(connect: Connect, db: Connection) -> None:
    worker, caller = await connect(), await connect()
    cases = product(APPLY, [("commit", "duplicate"), ("rollback", "applied")])
    for n, (way, (ending, answer)) in enumerate(cases):
        await calls.add_invoice(db, n)
        await calls.enqueue(db, Event(f"e{n}", n, 5000))
        await worker.execute("begin")
        assert (await calls.process(worker))["applied"] == 1
        waiting = await sessions.blocked(db, caller, way(caller, Event(f"e{n}", n, 5000)))
        await worker.execute(ending)
        assert await waiting == answer, (way, ending)
        assert await sessions.paid(db, n) == 5000
    await assert_right(db)


async def test_a_worker_passes_over_an_event_that_a_call_is_applying(connect: Connect, db: Connection) -> None:
    caller = await connect()
    await db.execute("set statement_timeout = '5s'")
    for n, (way, ending) in enumerate(product(APPLY, ["commit", "rollback"])):
        await calls.add_invoice(db, n)
        await calls.enqueue(db, Event(f"e{n}", n, 5000))
        await caller.execute("begin")
        assert await way(caller, Event(f"e{n}", n, 5000)) == "applied"
        assert (await calls.process(db))["applied"] == 0
        await caller.execute(ending)
        await sessions.drain(db)
        assert await sessions.paid(db, n) == 5000, (way, ending)
    await assert_right(db)
    assert set((await sessions.times_posted(db)).values()) == {1}


async def test_a_dead_event_retried_while_it_is_reported_again_is_not_lost(connect: Connect, db: Connection) -> None:
    """The report finds it dead; before it has tidied up the queue, an operator has put it there."""
    await calls.add_invoice(db, 1)
    await apply_one(db, Event("first", 1, 100, reference="ch_1"))
    assert await apply_one(db, Event("e1", 1, 90, reference="ch_1")) == "conflict"
    operator, reporter = await connect(), await connect()
    await operator.execute("begin; lock table payment_queue in exclusive mode")
    reporting = await sessions.started(db, reporter, apply_one(reporter, Event("e1", 1, 90, reference="ch_1")))
    assert await operator.fetchval("select retry_dead_letters('conflict')") == 1
    await operator.execute("commit")
    assert await reporting == "dead"
    assert await calls.whereabouts(db, "e1") == ("pending", "queued")
    assert await db.fetch("select * from misplaced_events()") == []
    await assert_right(db)


# Killed half way


async def kill_inside_the_worker(url: str, kill: Callable[[Connection, int], Awaitable[None]]) -> None:
    """Ten queued events, the worker's backend killed when it has posted some: the next worker finishes."""
    db, worker = await asyncpg.connect(url), await asyncpg.connect(url)
    for invoice_id in range(1, 11):
        await calls.add_invoice(db, invoice_id)
    await calls.enqueue_all(db, [Event(f"e{n}", n, 5000) for n in range(1, 11)])
    await db.execute(sessions.HOLD_AT_ONCE)
    await db.execute("select pg_advisory_lock(4711)")
    working = await sessions.blocked(db, worker, calls.process(worker))
    await kill(db, worker.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await working
    db.terminate()

    async def is_up() -> bool:
        try:
            await (await asyncpg.connect(url)).close()
        except (asyncpg.PostgresError, OSError):  # it recovers
            return False
        return True

    await sessions.until(is_up)
    db = await asyncpg.connect(url)
    await db.execute("drop trigger hold on invoices")
    assert await calls.counts(db, "payments", "payment_queue", "dead_letters") == [0, 10, 0]
    assert await db.fetchval("select sum(amount_paid) from invoices") == 0
    assert await db.fetchval("select sum(attempts) from payment_queue") == 0
    assert (await calls.process(db))["applied"] == 10
    await assert_right(db)
    assert set((await sessions.times_posted(db)).values()) == {1}
    assert await db.fetchval("select sum(amount_paid) from invoices") == 50_000
    await db.close()


async def test_a_worker_terminated_half_way_leaves_nothing_half_done(database_url: str) -> None:
    async def kill(db: Connection, backend: int) -> None:
        assert await db.fetchval("select pg_terminate_backend($1, 10000)", backend)

    await kill_inside_the_worker(database_url, kill)


async def test_a_worker_killed_by_signal_half_way_leaves_nothing_half_done(
    bin_dir: Path | None, tmp_path: Path
) -> None:
    async def kill(db: Connection, backend: int) -> None:
        os.kill(backend, signal.SIGKILL)  # PostgreSQL ends all other backends too, and recovers from its WAL

        async def ended() -> bool:
            try:
                await db.execute("select 1")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                return True
            return False

        await sessions.until(ended)

    with embedded.start(tmp_path / "data", bin_dir=bin_dir, settings={"fsync": "off"}) as server:
        await migrate.up(server.url)
        await kill_inside_the_worker(server.url, kill)


# No deadlock


class Traffic:
    """Sessions that report and process overlapping events for some seconds, in opposite orders.

    Each tenth of a second brings a new generation of events, so that first reports keep meeting.
    """

    def __init__(
        self, connections: list[Connection], seed: int, *, contradictions: bool = True, isolated: bool = False
    ):
        self.connections = connections
        self.seed = seed
        self.contradictions = contradictions  # whether events and movements are also reported with other content
        self.isolated = isolated  # whether calls run in transactions of all isolation levels
        self.errors: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        await asyncio.gather(*(self.session(n, connection) for n, connection in enumerate(self.connections)))

    def generation(self, number: int) -> list[Event]:
        """60 events about 8 invoices: each of 8 movements reported many times, some otherwise than others."""
        choose = random.Random(f"{self.seed}-{number}")  # noqa: S311
        return [self.event(choose, number, n) for n in range(60)]

    def event(self, choose: random.Random, number: int, n: int) -> Event:
        def odd(chance: float) -> bool:
            return self.contradictions and choose.random() < chance

        kinds = ["payment", "refund", "chargeback", "payment_reversal", "refund_reversal", "chargeback_reversal"]
        kind = choose.choices(kinds, [6, 2, 2, 1, 1, 1])[0]
        movement = choose.randrange(8)
        invoice_id = choose.randrange(1, 10) if odd(0.1) else movement + 1  # there is no invoice 9
        return Event(
            event_id=f"{number}-{n // 2 if odd(0.05) else n}",
            invoice_id=invoice_id if kind == "payment" or choose.random() < 0.6 else None,
            amount=90 if odd(0.05) else 100,
            kind=kind,
            currency="EUR" if odd(0.03) else None,
            reference=f"{number}-{movement}",
            parent_reference=f"{number}-{movement}" if kind in ("refund", "chargeback") else None,
        )

    async def session(self, n: int, connection: Connection) -> None:
        choose = random.Random(f"{self.seed}/{n}")  # noqa: S311
        while time.monotonic() < self.ends:
            events = self.generation(int(time.monotonic() * 10))
            events = choose.sample(events, choose.choice([2, 5, 20, 60]))
            events.sort(key=lambda event: event.event_id or "", reverse=choose.random() < 0.5)
            levels = ["read committed", "repeatable read", "serializable"] if self.isolated else ["read committed"]
            try:
                await connection.execute(f"begin isolation level {choose.choice(levels)}")
                outcomes = await self.one_call(choose, connection, events)
                await connection.execute("commit")
                self.outcomes.update(outcomes)
            except asyncpg.PostgresError as error:
                await connection.execute("rollback")
                self.errors[f"{error.sqlstate} {error}, {getattr(error, 'context', '')}"] += 1

    async def one_call(self, choose: random.Random, connection: Connection, events: list[Event]) -> list[str]:
        match choose.randrange(9):
            case 0 | 1:
                return calls.outcomes(await calls.apply_all(connection, events, park=choose.random() < 0.5))
            case 2:
                return calls.outcomes(await calls.apply_all(connection, events, park=True, wait=False))
            case 3:
                return [(await calls.apply(connection, events[0], park=True))["outcome"]]
            case 4 | 5:
                return calls.outcomes(await calls.enqueue_all(connection, events, park=choose.random() < 0.5))
            case 6:
                await connection.execute(
                    "update invoices set amount = $2 where id = $1", choose.randrange(1, 9), choose.randrange(1, 1000)
                )
                return []
            case _:
                return ["processed"] * (await calls.process(connection, choose.choice([5, 50, 500])))["claimed"]


KNOWN = {
    "applied", "queued", "duplicate", "conflict", "parked", "dead", "busy",
    "unknown_invoice", "currency_mismatch", "processed",
}  # fmt: skip


async def make_traffic(connect: Connect, db: Connection, seed: int, **options: bool) -> Traffic:
    for invoice_id in range(1, 9):
        await calls.add_invoice(db, invoice_id, 500)
    return Traffic([await connect() for _ in range(12)], seed, **options)


async def test_opposite_batches_from_many_sessions_never_deadlock_and_the_sums_are_right(
    connect: Connect, db: Connection
) -> None:
    traffic = await make_traffic(connect, db, seed=1)
    await traffic.run(5)
    assert traffic.errors == {}
    assert {"applied", "duplicate", "conflict", "parked", "processed"} <= set(traffic.outcomes) <= KNOWN
    await assert_right(db)


async def test_opposite_batches_that_meet_in_their_movements_only_never_deadlock(
    connect: Connect, db: Connection
) -> None:
    """Each session reports the same movements on an invoice of its own: no invoice's lock keeps them apart."""
    reporters = [await connect() for _ in range(8)]

    async def report(connection: Connection, invoice_id: int) -> Counter[str]:
        found: Counter[str] = Counter()
        await calls.add_invoice(connection, invoice_id, 500)
        for n in range(25):
            events = [
                Event(f"{invoice_id}-{n}-{movement}-{kind}", invoice_id, 100, kind, reference=f"{n}-{movement}")
                for movement in range(20)
                for kind in ("payment", "refund")
            ]
            random.Random(f"{n}-{invoice_id}").shuffle(events)  # noqa: S311
            if n % 3:
                found.update(calls.outcomes(await calls.apply_all(connection, events)))
            else:
                await calls.enqueue_all(connection, events)
                await calls.process(connection)
        return found

    found = await asyncio.gather(*map(report, reporters, range(1, 9)))
    assert set().union(*found) == {"applied", "conflict"}
    await assert_right(db)
    assert await calls.counts(db, "payments") == [25 * 40]


async def test_opposite_batches_in_which_a_users_trigger_raises_leave_the_books_right(
    connect: Connect, db: Connection
) -> None:
    traffic = await make_traffic(connect, db, seed=2, contradictions=False)
    await db.execute("""
        create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
        create trigger refuse before update of amount_paid on invoices
            for each row when (old.id = 4) execute function refuse();
    """)
    await traffic.run(3)
    # The parts of a halved batch keep no common order: once in a while two meet in a circle, and one has to try again.
    assert {error[:5] for error in traffic.errors} <= {"P0001", "40P01"}
    assert traffic.outcomes["applied"] > 0
    assert traffic.outcomes["failed"] > 0
    await db.execute("drop trigger refuse on invoices; update payment_queue set next_attempt_at = now()")
    await assert_right(db)


# No stall


async def test_an_invoice_held_by_an_open_transaction_delays_its_own_events_only(
    connect: Connect, db: Connection
) -> None:
    holder = await connect()
    await db.execute("set statement_timeout = '5s'")
    for n in range(1, 11):
        await calls.add_invoice(db, n)
    for round_, hold in enumerate(
        [
            "select from invoices where id = 1 for update",
            "update invoices set amount = 20000 where id = 1",
            "select apply_payment_event('held', 1, 700)",
        ]
    ):
        await calls.enqueue_all(db, [Event(f"{round_}-{n}", n % 10 + 1) for n in range(20)])
        await holder.execute("begin")
        await holder.execute(hold)
        async with db.transaction():  # in which now() stands still
            done = await calls.process(db)
            assert (done["applied"], done["busy"], done["failed"], done["dead"]) == (18, 2, 0, 0), hold
            assert (await calls.process(db))["claimed"] == 0  # the held ones wait a little before they are tried again
            rows = await db.fetch("select attempts, next_attempt_at > now() as later, last_error from payment_queue")
            assert [tuple(row) for row in rows] == [(0, True, None)] * 2
        assert await enqueue_one(db, Event(f"{round_}-more", 1)) == "queued"
        assert await apply_one(db, Event(f"{round_}-other", 2)) == "applied"
        await holder.execute("commit")
        await sessions.drain(db)
    await assert_right(db)
    assert set((await sessions.times_posted(db)).values()) == {1}
    assert await sessions.paid(db, 1) == 700 + 3 * 3 * 100


async def test_a_batch_that_does_not_wait_answers_busy_for_the_events_of_a_held_invoice_only(
    connect: Connect, db: Connection
) -> None:
    for n in (1, 2, 3):
        await calls.add_invoice(db, n)
    await calls.enqueue(db, Event("queued", 2))
    holder = await connect()
    await db.execute("set statement_timeout = '5s'")
    events = [Event("a", 1), Event("b", 2), Event("c", 3), Event("d", 2), Event("queued", 2)]
    for park in (False, True):
        await holder.execute("begin; select from invoices where id = 2 for update")
        rows = await calls.apply_all(db, events, park=park, wait=False)
        already = "duplicate" if park else "applied"
        assert calls.outcomes(rows) == [already, "busy", already, "busy", "busy"]
        assert rows[1]["detail"] == "invoice 2 is locked by another transaction"
        assert await sessions.times_posted(db) == {"a": 1, "c": 1, "queued": 0}  # b and d are not even stored
        await holder.execute("commit")
    assert calls.outcomes(await calls.apply_all(db, events, wait=False)) == [
        "duplicate", "applied", "duplicate", "applied", "applied",
    ]  # fmt: skip
    await assert_right(db)


async def test_a_call_waits_for_a_held_invoice_and_honours_lock_timeout(connect: Connect, db: Connection) -> None:
    await calls.add_invoice(db, 1)
    holder, caller = await connect(), await connect()
    for n, way in enumerate(APPLY):
        await holder.execute("begin; select from invoices where id = 1 for update")
        await caller.execute("set lock_timeout = '30ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):  # 55P03
            await way(caller, Event(f"e{n}", 1))
        assert f"e{n}" not in await sessions.times_posted(db)
        await caller.execute("set lock_timeout = 0")
        waiting = await sessions.blocked(db, caller, way(caller, Event(f"e{n}", 1)))
        await holder.execute("commit")
        assert await waiting == "applied"
    await assert_right(db)


@pytest.mark.parametrize(
    "held",
    [
        "select from payment_queue for update",
        "select from payment_events for update",
        "select from invoices for update",
        "lock table payment_queue in row exclusive mode",
    ],
)
async def test_a_transaction_that_holds_rows_of_a_queued_event_and_then_applies_it_meets_no_deadlock(
    connect: Connect, db: Connection, held: str
) -> None:
    await calls.add_invoice(db, 1)
    await calls.add_invoice(db, 2)
    await calls.enqueue(db, Event("e1", 1, 5000))
    user, caller = await connect(), await connect()
    await user.execute("begin")
    await user.execute(held)
    await db.execute("set statement_timeout = '5s'; set deadlock_timeout = '50ms'")
    await calls.enqueue(db, Event("e2", 2, 700))
    await calls.process(db)
    reporting = await sessions.started(db, caller, apply_one(caller, Event("e1", 1, 5000)))
    answers = [await apply_one(user, Event("e1", 1, 5000))]
    await user.execute("commit")
    answers.append(await reporting)
    assert set(answers) <= {"applied", "duplicate"}
    await assert_right(db)
    assert await sessions.times_posted(db) == {"e1": 1, "e2": 1}


async def test_a_slow_trigger_of_a_users_on_one_invoice_holds_up_no_other(connect: Connect, db: Connection) -> None:
    for n in range(1, 7):
        await calls.add_invoice(db, n)
    worker = await connect()
    await db.execute(sessions.HOLD_AT_ONCE)
    await db.execute("set statement_timeout = '5s'; select pg_advisory_lock(4711)")
    await calls.enqueue_all(db, [Event(f"a{n}", n) for n in (1, 2, 3)])
    working = await sessions.blocked(db, worker, calls.process(worker))
    await calls.enqueue_all(db, [Event(f"b{n}", n) for n in (4, 5, 6)])
    assert (await calls.process(db))["applied"] == 3  # another worker
    assert await apply_one(db, Event("c4", 4)) == "applied"
    assert await enqueue_one(db, Event("c1", 1)) == "queued"
    assert calls.outcomes(await calls.apply_all(db, [Event("d1", 1)], wait=False)) == ["busy"]
    await db.execute("select pg_advisory_unlock(4711)")
    assert (await working)["applied"] == 3
    await assert_right(db)


# Other isolation levels


async def test_callers_in_stricter_isolation_levels_are_right_or_told_to_retry(
    connect: Connect, db: Connection
) -> None:
    """A caller whose snapshot was taken before another session did something about the same event."""
    caller = await connect()
    refused: Counter[str] = Counter()
    numbers = count(1)

    async def process(connection: Connection, _: Event) -> str:
        return f"{(await calls.process(connection))['applied']} applied"

    meanwhile: list[Report] = [*WAYS, process]
    for level, way, other_way in product(["repeatable read", "serializable"], [*WAYS, process], meanwhile):
        n = next(numbers)
        await calls.add_invoice(db, n)
        event = Event(f"{n}-a", n, 5000, reference=f"ch_{n}")
        for other in (event, Event(f"{n}-b", n, 5000, reference=f"ch_{n}"), Event(f"{n}-c", n, 300)):
            await enqueue_one(db, Event(f"{n}-q", n, 20))
            await caller.execute(f"begin isolation level {level}")
            await caller.fetchval("select count(*) from invoices")
            await other_way(db, other)
            try:
                await way(caller, event)
                await caller.execute("commit")
            except asyncpg.SerializationError:  # 40001
                refused[level] += 1
                await caller.execute("rollback")
                await way(caller, event)
        await enqueue_one(db, event)
        await sessions.drain(db)
        expected = 5000 + 20 + (300 if other_way is not process else 0)
        assert await sessions.paid(db, n) == expected, (level, way, other_way)
    assert refused["repeatable read"] > 0
    assert refused["serializable"] > 0
    await assert_right(db)


async def test_an_event_whose_invoice_a_stricter_caller_cannot_see_yet_is_parked_and_released_by_the_next_poll(
    connect: Connect, db: Connection
) -> None:
    caller = await connect()
    for n, level in enumerate(["repeatable read", "serializable"], 1):
        await caller.execute(f"begin isolation level {level}")
        await caller.fetchval("select count(*) from invoices")
        await calls.add_invoice(db, n)
        assert (await calls.apply(caller, Event(f"e{n}", n), park=True))["outcome"] == "parked"
        await caller.execute("commit")
        assert await calls.whereabouts(db, f"e{n}") == ("pending", "parked")
        await sessions.drain(db)
        assert await sessions.paid(db, n) == 100
    await assert_right(db)


async def test_sessions_of_all_isolation_levels_at_once_are_right_or_told_to_retry(
    connect: Connect, db: Connection
) -> None:
    traffic = await make_traffic(connect, db, seed=3, isolated=True)
    await traffic.run(3)
    assert {error[:5] for error in traffic.errors} <= {"40001", "40P01"}  # both say: try again
    assert {"applied", "duplicate", "processed"} <= set(traffic.outcomes) <= KNOWN
    await assert_right(db)


async def test_an_event_that_is_applied_between_a_claim_and_its_failure_is_not_buried(
    connect: Connect, db: Connection
) -> None:
    await calls.add_invoice(db, 1)
    await calls.enqueue(db, Event("e1", 1))
    worker = await connect()
    transaction = worker.transaction()
    await transaction.start()
    [event] = await worker.fetchval("select claim_payment_events()")
    assert await calls.apply_each(db, [Event("e1", 1)]) == ["applied"]
    await transaction.rollback()
    assert not await worker.fetchval("select fail_payment_event($1, 'timed out', 1)", event)
    assert await db.fetchval("select count(*) from payment_queue") == 0
    assert await db.fetch("select * from misplaced_events()") == []


async def test_an_event_that_another_is_applying_is_not_buried(connect: Connect, db: Connection) -> None:
    await calls.add_invoice(db, 1)
    await calls.enqueue(db, Event("e1", 1))
    worker, other = await connect(), await connect()
    async with worker.transaction():
        [event] = await worker.fetchval("select claim_payment_events()")
        async with other.transaction():
            assert await calls.apply_each(other, [Event("e1", 1)]) == ["applied"]
            async with asyncio.timeout(sessions.PATIENCE):
                assert not await worker.fetchval("select fail_payment_event($1, 'raised', 1)", event)
    assert await db.fetch("select * from open_dead_letters") == []
    await db.execute("update payment_queue set next_attempt_at = now()")
    await assert_right(db)


async def test_while_an_event_is_buried_nobody_applies_it(connect: Connect, db: Connection) -> None:
    await calls.add_invoice(db, 1)
    await calls.enqueue(db, Event("e1", 1))
    worker, other = await connect(), await connect()
    async with worker.transaction():
        [event] = await worker.fetchval("select claim_payment_events()")
        assert await worker.fetchval("select fail_payment_event($1, 'raised', 1)", event)
        task = await sessions.blocked(db, other, calls.apply_each(other, [Event("e1", 1)]))
    assert await task == ["dead"]
    assert await db.fetch("select * from misplaced_events()") == []
