"""What an operator asks of the database, and does there: the same SQL functions and views that a DBA calls in psql."""

from typing import Any

from service.database import Session

PAGE = 50
"""Dead letters shown at once."""


class OperatorSession(Session):
    """A connection of the operator's. Amounts are minor units; every call raises UnavailableError or RejectedError."""

    role = "operator"

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
        query = (
            "select s.* from find_payment_events($1) f (id) join payment_event_states s on s.id = f.id order by s.id"
        )
        return await self.rows(query, text)

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

    async def retry(self, letter: int, actor: str, note: str | None = None) -> None:
        """retry_dead_letter(): back into the queue."""
        await self.fetch("select retry_dead_letter($1, $2, $3)", letter, note, actor)
