"""The payment functions as tests call them: an event is a value, its fields are named as the SQL parameters."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from typing import Any

import asyncpg

from tests.conftest import Connection

APPLY_ONE = "select * from apply_payment_event($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
ENQUEUE_ONE = "select * from enqueue_payment_event($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
APPLY_ALL = """select * from apply_payment_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
                                                  p_park => $13, p_wait => $14)"""
ENQUEUE_ALL = """select * from enqueue_payment_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
                                                      p_park => $13)"""
REFUSALS = {
    "PW001": "unknown_invoice", "PW002": "invalid", "PW003": "currency_mismatch", "PW004": "amount_out_of_range",
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """What a connection reports; None leaves a field to its default."""

    event_id: str | None
    invoice_id: int | None = None
    amount: int | None = 100
    kind: str | None = None
    currency: str | None = None
    connection: str | None = None
    reference: str | None = None
    parent_reference: str | None = None
    invoice_reference: str | None = None
    occurred_at: datetime | None = None
    body: bytes | None = None
    content_type: str | None = None


async def apply(db: Connection, event: Event, *, park: bool = False) -> asyncpg.Record:
    return await _one(db, APPLY_ONE, event, park=park)


async def enqueue(db: Connection, event: Event, *, park: bool = False) -> asyncpg.Record:
    return await _one(db, ENQUEUE_ONE, event, park=park)


async def apply_all(
    db: Connection, events: Sequence[Event], *, park: bool = False, wait: bool = True
) -> list[asyncpg.Record]:
    return await db.fetch(APPLY_ALL, *_arrays(events), park, wait)


async def enqueue_all(db: Connection, events: Sequence[Event], *, park: bool = False) -> list[asyncpg.Record]:
    return await db.fetch(ENQUEUE_ALL, *_arrays(events), park)


async def apply_each(db: Connection, events: Sequence[Event], *, park: bool = False) -> list[str]:
    """The outcomes of one call an event, where an error of the registry counts as the outcome that it stands for."""
    return [await _outcome(db, APPLY_ONE, event, park=park) for event in events]


async def enqueue_each(db: Connection, events: Sequence[Event], *, park: bool = False) -> list[str]:
    return [await _outcome(db, ENQUEUE_ONE, event, park=park) for event in events]


async def apply_together(db: Connection, events: Sequence[Event], *, park: bool = False) -> list[str]:
    return outcomes(await apply_all(db, events, park=park))


async def enqueue_together(db: Connection, events: Sequence[Event], *, park: bool = False) -> list[str]:
    return outcomes(await enqueue_all(db, events, park=park))


def outcomes(rows: Sequence[asyncpg.Record]) -> list[str]:
    return [row["outcome"] for row in rows]


async def process(db: Connection, batch_size: int = 500, max_attempts: int = 10) -> asyncpg.Record:
    row = await db.fetchrow("select * from process_payment_queue($1, p_max_attempts => $2)", batch_size, max_attempts)
    assert row is not None
    return row


async def drain(db: Connection, batch_size: int = 500) -> None:
    """Call process_payment_queue until nothing is claimed or released any more; it has to come to an end."""
    for _ in range(200):
        row = await process(db, batch_size)
        if row["claimed"] == 0 and row["released"] == 0:
            return
    raise AssertionError("the queue does not drain")


async def add_invoice(db: Connection, invoice_id: int, amount: int = 10_000, currency: str = "USD") -> None:
    await db.execute("insert into invoices (id, amount, currency) values ($1, $2, $3)", invoice_id, amount, currency)


async def add_reference(db: Connection, connection: str, reference: str, invoice_id: int) -> None:
    await db.execute("insert into invoice_references values ($1, $2, $3)", connection, reference, invoice_id)


async def balance(db: Connection, invoice_id: int) -> tuple[str, int, int, int]:
    """Status, paid, refunded and charged back of an invoice."""
    row = await db.fetchrow(
        "select status, paid, refunded, charged_back from invoice_balances where id = $1", invoice_id
    )
    assert row is not None
    return (row["status"], row["paid"], row["refunded"], row["charged_back"])


async def whereabouts(db: Connection, event_id: str, connection: str = "direct") -> tuple[str, str] | None:
    """State and place of an event, None when it is not stored."""
    row = await db.fetchrow(
        "select state, place from payment_event_states where connection = $1 and event_id = $2", connection, event_id
    )
    return None if row is None else (row["state"], row["place"])


async def rows_of(db: Connection, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """The rows as tuples, to compare with."""
    return [tuple(row) for row in await db.fetch(query, *arguments)]


async def counts(db: Connection, *tables: str) -> list[int]:
    """How many rows each of these tables has."""
    return [await db.fetchval("select count(*) from " + table) for table in tables]  # noqa: S608 - names from tests


async def assert_consistent(db: Connection) -> None:
    """Every event is in exactly one place, and every invoice's sums are what the ledger adds up to."""
    assert await db.fetch("select * from misplaced_events()") == []
    assert await db.fetch("select * from invoice_discrepancies()") == []


async def _one(db: Connection, call: str, event: Event, *, park: bool) -> asyncpg.Record:
    row = await db.fetchrow(call, *astuple(event), park)
    assert row is not None
    return row


async def _outcome(db: Connection, call: str, event: Event, *, park: bool) -> str:
    try:
        return str((await _one(db, call, event, park=park))["outcome"])
    except asyncpg.PostgresError as error:
        return REFUSALS.get(error.sqlstate or "", f"failed: {error}")


def _arrays(events: Sequence[Event]) -> list[list[object] | None]:
    """The events' fields as parallel arrays; no array of bodies where there is none."""
    arrays: list[list[object] | None] = [[getattr(event, field.name) for event in events] for field in fields(Event)]
    if all(event.body is None for event in events):
        arrays[-2:] = [None, None]
    return arrays
