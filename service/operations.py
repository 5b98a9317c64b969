"""What an operator asks of the database, and does there: the same SQL functions and views that a DBA calls in psql."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from service.database import LOOK_TIMEOUT, STATEMENT_TIMEOUT, Connection, Session, UnavailableError

PAGE = 50
"""Dead letters shown at once."""
OVERDUE_POLLS = 3
"""Poll intervals that an event may have been due without anything being wrong."""


class OperatorSession(Session):
    """A connection of the operator's. Amounts are minor units; every call raises UnavailableError or RejectedError."""

    role = "operator"
    needs = "schema_version"  # a reader may look; who may not act is told when it does

    def __init__(self, url: str, name: str, *, dry_run: bool = False):
        super().__init__(url, name)
        self._dry_run = dry_run

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """As Session.fetch(); in a dry run whatever the statement did is rolled back."""
        if not self._dry_run:
            return await super().fetch(query, *arguments)
        connection = await self.connection()
        async with self._guard():
            transaction = connection.transaction()
            await transaction.start()
            try:
                return await connection.fetch(query, *arguments)
            finally:
                await transaction.rollback()

    async def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """The rows of a query, by column."""
        return [dict(row) for row in await self.fetch(query, *arguments)]

    async def status(self) -> dict[str, Any]:
        """What waits, what is dead, how fast events come and post, and which listeners live."""
        [health] = await self.rows("select * from queue_health, event_rates")
        return health | {
            "dead_by_reason": await self.rows("select * from dead_letter_reasons order by letters desc, reason"),
            "listeners": await self.rows("select * from listener_states order by alive desc, watching desc, name"),
            "migration": (await self.fetch("select schema_version()"))[0][0],
        }

    async def dead_letters(self, reason: str | None = None, after: int = 0, limit: int = PAGE) -> list[dict[str, Any]]:
        """Open dead letters (of `reason`), oldest first, from the one after the id `after`."""
        query = (
            "select * from open_dead_letters where id > $1 and ($2::text is null or reason = $2) order by id limit $3"
        )
        return await self.rows(query, after, reason, limit)

    async def events(self, text: str) -> list[dict[str, Any]]:
        """find_payment_events(): the events, and their states, that have this event id or reference."""
        found = [row[0] for row in await self.fetch("select find_payment_events($1)", text)]
        return await self.rows(f"{_STATES} where s.id = any($1::bigint[]) order by s.id", found)

    async def invoice(self, invoice: int) -> dict[str, Any] | None:
        """An invoice's balance, with its `references` and its `timeline`."""
        if not (found := await self.rows("select * from invoice_balances where id = $1", invoice)):
            return None
        names = "select connection, reference from invoice_references where invoice_id = $1 order by 1, 2"
        return found[0] | {
            "references": await self.rows(names, invoice),
            "timeline": await self.rows("select * from invoice_timeline($1)", invoice),
        }

    async def invoices(self, text: str) -> list[int]:
        """find_named_invoices(): the ids of the invoices of this id or reference."""
        return [row[0] for row in await self.fetch("select * from find_named_invoices($1) order by 1", text)]

    async def newest_events(self, limit: int = 10) -> list[dict[str, Any]]:
        """The events that came last, and their states, newest first."""
        return await self.rows(f"{_STATES} order by s.id desc limit $1", limit)

    async def event(self, event: int) -> dict[str, Any] | None:
        """The state of the event of this `payment_events.id`, with `letters` and `actions` about it."""
        if not (found := await self.rows(f"{_STATES} where s.id = $1", event)):
            return None
        letters = (
            "select * from dead_letters where payment_event_id = $1 or (connection, event_id) = ($2, $3) order by id"
        )
        return found[0] | {
            "letters": await self.rows(letters, event, found[0]["connection"], found[0]["event_id"]),
            "actions": await self.rows(f"{_ACTIONS} where a.payment_event_id = $1 order by a.id desc", event),
        }

    async def dead_letter(self, letter: int) -> dict[str, Any] | None:
        """A dead letter, open or resolved, with its `event` (see event()) where it has one, and `actions` on it."""
        if not (found := await self.rows("select * from dead_letters where id = $1", letter)):
            return None
        event = found[0]["payment_event_id"]
        return found[0] | {
            "event": None if event is None else await self.event(event),
            "actions": await self.rows(f"{_ACTIONS} where a.dead_letter_id = $1 order by a.id desc", letter),
        }

    async def body(self, delivery: int | None) -> bytes | None:
        """The request of this `deliveries.id`; None where it is not kept, or not any more."""
        rows = await self.fetch("select body from deliveries where id = $1", delivery)
        return rows[0][0] if rows else None

    async def actions(self, before: int, limit: int = PAGE) -> list[dict[str, Any]]:
        """What operators did, newest first, from the one before the id `before`."""
        return await self.rows(f"{_ACTIONS} where a.id < $1 order by a.id desc limit $2", before, limit)

    async def reassign(self, letter: int, invoice: int, actor: str, note: str | None = None) -> None:
        """reassign_dead_letter(): back into the queue, for another invoice."""
        await self.fetch("select reassign_dead_letter($1, $2, $3, $4)", letter, invoice, note, actor)

    async def dismiss(self, letter: int, actor: str, note: str | None = None) -> None:
        """dismiss_dead_letter(): it needs nothing more."""
        await self.fetch("select dismiss_dead_letter($1, $2, $3)", letter, note, actor)

    async def letters_named(self, text: str) -> list[dict[str, Any]]:
        """The dead letters under this event id that are no events."""
        query = "select * from dead_letters where payment_event_id is null and event_id = $1 order by id limit 100"
        return await self.rows(query, text)

    async def retry(self, letters: Sequence[int], actor: str, note: str | None = None) -> None:
        """retry_dead_letter(): back into the queue, all of them or, where one is refused, none."""
        await self.fetch("select retry_dead_letter(id, $2, $3) from unnest($1::bigint[]) id", letters, note, actor)

    async def prune(self, days: int, limit: int, actor: str, note: str | None = None) -> int:
        """prune_deliveries(): how many bodies older than so many days are gone now, at most `limit`."""
        query = "select prune_deliveries(make_interval(days => $1), $2, $3, $4)"
        return int((await self.fetch(query, days, limit, note, actor))[0][0])

    async def retriable(self, reason: str | None = None) -> dict[int, int]:
        """Open dead letters (of `reason`) that are events: each one's id, and its event's, oldest first."""
        rows = await self.fetch(
            """select id, payment_event_id from open_dead_letters
               where payment_event_id is not null and ($1::text is null or reason = $1) order by id""",
            reason,
        )
        return {row[0]: row[1] for row in rows}

    async def unread(self, letters: Sequence[int] | None, reason: str | None) -> list[dict[str, Any]]:
        """Open dead letters (of `letters`, of `reason`) that are no events and whose body is kept, oldest first."""
        query = """
            select l.id, l.connection, l.reason, l.delivery_id, d.content_type
            from open_dead_letters l join deliveries d on d.id = l.delivery_id
            where l.payment_event_id is null and ($1::bigint[] is null or l.id = any($1))
              and ($2::text is null or l.reason = $2)
            order by l.id
        """
        return await self.rows(query, letters, reason)

    async def events_of(self, letters: Sequence[int]) -> dict[int, int]:
        """The event of each of these dead letters that has one."""
        query = "select id, payment_event_id from dead_letters where id = any($1) and payment_event_id is not null"
        return {row[0]: row[1] for row in await self.fetch(query, letters)}

    async def still_queued(self, events: Sequence[int]) -> int:
        """How many of these events are in the queue."""
        return int((await self.fetch("select count(*) from payment_queue where id = any($1)", events))[0][0])

    async def whereabouts(self, events: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Where each of these events is, and why."""
        query = "select id, connection, event_id, place, detail from payment_event_states where id = any($1)"
        return {row["id"]: row for row in await self.rows(query, events)}

    async def notify_seconds(self, patience: float) -> float | None:
        """How long our own NOTIFY on the queue's channel takes to come back; None if longer than `patience` seconds."""
        [(channel,)] = await self.fetch("select queue_channel()")
        token, heard = secrets.token_hex(8), asyncio.Event()

        def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload == token:
                heard.set()

        connection = await self.connection()
        async with self._guard():
            await connection.add_listener(channel, hear)
            started = time.perf_counter()
            await connection.execute("select pg_notify($1, $2)", channel, token)
            try:
                await asyncio.wait_for(heard.wait(), patience)
            except TimeoutError:
                return None
            finally:
                await connection.remove_listener(channel, hear)
        return time.perf_counter() - started

    async def retry_reason(self, reason: str, limit: int, actor: str, note: str | None = None) -> int:
        """retry_dead_letters(): how many of a reason are back in the queue, oldest first, at most `limit`."""
        return int((await self.fetch("select retry_dead_letters($1, $2, $3, $4)", reason, limit, note, actor))[0][0])


_STATES = """
    select s.*, i.currency as invoice_currency, e.occurred_at, e.delivery_id
    from payment_event_states s join payment_events e on e.id = s.id left join invoices i on i.id = s.invoice_id
"""
_ACTIONS = """
    select a.*, e.connection, e.event_id from operator_actions a left join payment_events e on e.id = a.payment_event_id
"""


class LookSession(OperatorSession):
    """An operator's connection that keeps the database from nothing: a call ends after LOOK_TIMEOUT.

    `hear` is called at each NOTIFY on the queue's channel; behind a pooler there is none.
    """

    def __init__(self, url: str, name: str, hear: Callable[[], None] | None = None):
        super().__init__(url, name)
        self._hear = hear

    async def _connect(self) -> Connection:
        connection = await super()._connect()
        if self._hear is not None and not self.pooled:
            hear = self._hear
            try:
                await connection.add_listener(await connection.fetchval("select queue_channel()"), lambda *_: hear())
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """As Session.fetch(), within LOOK_TIMEOUT."""
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT):  # for a network that is dead
                connection = await self.connection()
                async with self._guard(), connection.transaction():
                    await connection.execute(f"set local statement_timeout = '{LOOK_TIMEOUT} s'")
                    return await connection.fetch(query, *arguments)
        except TimeoutError:
            raise UnavailableError(f"no answer within {STATEMENT_TIMEOUT:g} s") from None
