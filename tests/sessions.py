"""What tests with several connections share: to see that one of them waits, and where the money is afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from uuid import uuid4

from tests import calls
from tests.conftest import Connection

T = TypeVar("T")

PATIENCE = 20.0  # seconds; far more than anything here takes

# A trigger of a user's on invoices that waits for as long as a test holds the advisory lock 4711.
HOLD_UPDATES = """
    create function hold() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared(4711);
        return null;
    end $$;
    create {constraint} trigger hold after update on invoices {deferred} for each row when (old.id = 1)
        execute function hold();
"""
HOLD_AT_ONCE = HOLD_UPDATES.format(constraint="", deferred="")
HOLD_AT_COMMIT = HOLD_UPDATES.format(constraint="constraint", deferred="deferrable initially deferred")


async def until(happened: Callable[[], Awaitable[object]]) -> None:
    """Ask until it has happened."""
    async with asyncio.timeout(PATIENCE):
        while not await happened():
            await asyncio.sleep(0.003)


async def blocked(watcher: Connection, waiting: Connection, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Start `call`, which `waiting` executes, and return it once it waits for a lock that another session holds."""
    task = await started(watcher, waiting, call)
    assert not task.done(), "it did not have to wait"
    return task


async def started(watcher: Connection, session: Connection, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Start `call`, which `session` executes, and return it once it is done or waits for another session's lock."""
    task = asyncio.create_task(call)

    async def waits() -> bool:
        await asyncio.sleep(0)
        blockers = await watcher.fetchval("select pg_blocking_pids($1)", session.get_server_pid())
        return task.done() or bool(blockers)

    await until(waits)
    return task


async def drain(db: Connection) -> None:
    """Call the worker until nothing is left, what is scheduled for later (0.5 s after busy) included."""
    async with asyncio.timeout(PATIENCE):
        await calls.drain(db)
        while await db.fetchval("select count(*) from payment_queue"):
            await asyncio.sleep(0.02)
            await calls.drain(db)


async def times_posted(db: Connection) -> dict[str, int]:
    """How often each event that is stored has posted, by its event_id."""
    rows = await db.fetch(
        "select e.event_id, count(p.id) from payment_events e left join payments p on p.id = e.id group by 1"
    )
    return {row["event_id"]: row["count"] for row in rows}


async def paid(db: Connection, invoice_id: int = 1) -> int:
    return int(await db.fetchval("select amount_paid from invoices where id = $1", invoice_id))


async def assert_right(db: Connection) -> None:
    """Once nothing waits any more, the books are right, and no event has posted twice."""
    await drain(db)
    await calls.assert_consistent(db)
    assert set((await times_posted(db)).values()) <= {0, 1}


@contextlib.asynccontextmanager
async def member_of(db: Connection, role: str) -> AsyncIterator[str]:
    """A login for the block, a member of `role` alone; roles belong to the cluster, so its name is its own."""
    login = f"login_{uuid4().hex}"
    await db.execute(f"create role {login} login in role {role}")
    try:
        yield login
    finally:
        await db.execute(f"drop role {login}")
