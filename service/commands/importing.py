"""`import`: events of a provider's export, by the same adapter and into the same queue as if by webhook."""

import asyncio
import contextlib
import os
import stat
from argparse import Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import BinaryIO, NamedTuple, TypeAlias

import asyncpg

from service import connections
from service.adapters import direct, strict_json
from service.adapters.adapter import Adapter, Delivery, Fact, FetchError
from service.commands.terminal import ExitStatus, Progress, complain
from service.database import (
    LINK_OUTCOMES,
    RECEIPT,
    DeadLetter,
    Link,
    PaymentEvent,
    RejectedError,
    Result,
    UnavailableError,
    call,
    columns,
    results,
)
from service.operations import OperatorSession
from service.problems import Problem
from service.text import printable

LINES = 200
"""Lines whose events share a commit."""
GOOD = LINK_OUTCOMES | {"queued", "ignored"}
"""Outcomes that need nobody."""
KEPT = GOOD | {"conflict", "dead"}
"""Outcomes of what is stored, if only as a dead letter."""
NOT_CONFIRMED = "not confirmed"
OURS = "direct"
"""The connection of the plain endpoints."""
_IMPORT = call(RECEIPT, "import_payment_events", "p_deliveries", "p_park", "p_note", "p_actor")
_IMPORT_LINK = """
    select import_invoice_reference(l.connection, l.reference, l.invoice_id, l.invoice_reference, $5, $6)
    from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])
        l(reference, invoice_id, invoice_reference, connection)
"""
Line: TypeAlias = tuple[int, bytes]
"""Its number, from 1 on, and its text."""


class LineError(Exception):
    """A line holds nothing that could be stored; `outcome` is what it counts as, the message says why."""

    def __init__(self, outcome: str, why: str):
        super().__init__(why)
        self.outcome = outcome


class Told(NamedTuple):
    """What became of a line, or of one of the facts in it."""

    line: int
    outcome: str
    detail: str | None = None


class ImportSession(OperatorSession):
    """Stores what a Session stores, by the functions that record the operator."""

    def __init__(self, url: str, name: str, actor: str, note: str, *, dry_run: bool):
        super().__init__(url, name, dry_run=dry_run)
        self._trace = note, actor

    async def enqueue(self, events: Sequence[PaymentEvent], *, park: bool = False) -> list[Result]:
        """import_payment_events()."""
        return results(await self.fetch(_IMPORT, *columns(events), park, *self._trace))

    async def _link(self, *columns: Sequence[object]) -> list[asyncpg.Record]:
        return await self.fetch(_IMPORT_LINK, *columns, *self._trace)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """import_dead_letter() of each."""
        for letter in letters:
            await self.fetch("select import_dead_letter($1, $2, $3, $4, $5, $6, $7, $8)", *letter, *self._trace)


async def import_file(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Feed the lines of a file to a connection's adapter, and what they report to the queue."""
    note = ": ".join(filter(None, (printable(options.file.name), options.note)))
    park = options.connection != "payments"  # as each has it on its endpoint
    counts: Counter[str] = Counter()
    lines = size = 0
    async with contextlib.AsyncExitStack() as stack:
        file = stack.enter_context(options.file)
        read: Callable[[bytes], Awaitable[list[Fact]]] = _ours
        if park:
            adapter = connections.named(options.settings.connections, options.connection)
            stack.push_async_callback(adapter.close)
            read = partial(_theirs, adapter)
        importing = await stack.enter_async_context(
            ImportSession(session.url, "payment_webhooks import", options.actor, note, dry_run=options.dry_run)
        )
        progress = stack.enter_context(Progress("bytes imported:", _size(file)))
        for batch in _batches(file):
            try:
                told = await _import(importing, batch, read, park=park)
            except UnavailableError:
                complain(f"Lines up to {lines} are done. Run it again: what is stored counts as duplicate.")
                raise
            counts.update(one.outcome for one in told)
            progress.wipe()
            for one in told:
                if one.outcome not in GOOD:
                    complain(f"line {one.line}: {one.outcome}" + (f": {printable(one.detail)}" if one.detail else ""))
            lines = batch[-1][0]
            size += sum(len(line) for _, line in batch)
            progress(size)
    said = ", ".join(f"{number:,} {outcome}" for outcome, number in counts.most_common()) or "no event"
    print(f"{lines:,} lines of {printable(file.name)}: {said}.")
    if options.dry_run:
        print("Nothing was done. Each batch was tried by itself: what the file holds twice may count as queued twice.")
    elif counts["queued"]:
        print("The listener applies what is queued: python -m service status")
    return ExitStatus.NEEDS_A_PERSON if counts.keys() - GOOD else ExitStatus.DONE


async def reread(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Feed bodies of dead letters that are no events to their adapters anew, and close what is of use now."""
    letters = await session.unread(options.letters or None, options.reason)
    for missing in sorted(set(options.letters) - {letter["id"] for letter in letters}):
        complain(f"{missing}: no open letter without an event whose body is kept. See python -m service dead {missing}")
    adapters = {
        name: connections.named(options.settings.connections, name)
        for name in {one["connection"] for one in letters} - {OURS}
    }
    read = left = 0
    async with contextlib.AsyncExitStack() as stack:
        for adapter in adapters.values():
            stack.push_async_callback(adapter.close)
        importing = await stack.enter_async_context(
            ImportSession(session.url, "payment_webhooks reread", options.actor, options.note, dry_run=options.dry_run)
        )
        progress = stack.enter_context(Progress("read anew:", len(letters)))
        for letter in letters:
            facts: Callable[[bytes], Awaitable[list[Fact]]] = _ours
            if park := letter["connection"] != OURS:  # as each has it on its endpoint
                facts = partial(_facts, adapters[letter["connection"]], content_type=letter["content_type"] or "")
            body = await session.body(letter["delivery_id"]) or b""
            told = await _import(importing, [(letter["id"], body)], facts, park=park)
            outcomes = {one.outcome for one in told}
            as_before = outcomes & {letter["reason"], f"dead letter ({letter['reason']})"}
            if as_before or not all(one in KEPT or one.startswith("dead letter") for one in outcomes):
                left += 1
            else:
                note = ": ".join(filter(None, (f"read anew, {', '.join(sorted(outcomes))}", options.note)))
                await session.dismiss(letter["id"], options.actor, note)
                read += 1
            progress.wipe()
            for one in told:
                print(f"{one.line}: {one.outcome}" + (f": {printable(one.detail)}" if one.detail else ""))
            progress(read + left)
    print(f"{read:,} read anew and closed, {left:,} as before." + (" Nothing was done." if options.dry_run else ""))
    return ExitStatus.NEEDS_A_PERSON if left or len(letters) < len(options.letters) else ExitStatus.DONE


def _size(file: BinaryIO) -> int | None:
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _batches(file: BinaryIO) -> Iterator[list[Line]]:
    numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    while batch := list(islice(numbered, LINES)):
        yield batch


async def _import(
    session: ImportSession, batch: list[Line], read: Callable[[bytes], Awaitable[list[Fact]]], *, park: bool
) -> list[Told]:
    found = await asyncio.gather(*(read(line.strip()) for _, line in batch), return_exceptions=True)
    told: list[Told] = []
    events: list[tuple[int, PaymentEvent]] = []
    for (number, _), facts in zip(batch, found, strict=True):
        if isinstance(facts, LineError):
            told.append(Told(number, facts.outcome, str(facts)))
        elif isinstance(facts, BaseException):
            raise facts
        elif not facts:
            told.append(Told(number, "ignored"))
        else:
            for fact in facts:
                if isinstance(fact, PaymentEvent):
                    events.append((number, fact))
                else:
                    told.append(await _set_aside(session, number, fact))
    return told + await _enqueue(session, events, park=park)


async def _enqueue(session: ImportSession, events: list[tuple[int, PaymentEvent]], *, park: bool) -> list[Told]:
    """Queue the events in one commit; if that fails as a whole, in halves, until the one that does it is alone."""
    if not events:
        return []
    try:
        rows = await session.enqueue([event for _, event in events], park=park)
    except RejectedError as error:
        if error.is_not_installed:
            raise
        if len(events) > 1:
            half = len(events) // 2
            return [
                *await _enqueue(session, events[:half], park=park),
                *await _enqueue(session, events[half:], park=park),
            ]
        return [await _refused(session, *events[0], str(error), park=park)]
    return [
        await _refused(session, number, event, row.detail or "", park=park)
        if row.outcome == "invalid"
        else Told(number, row.outcome, row.detail)
        for (number, event), row in zip(events, rows, strict=True)
    ]


async def _refused(session: ImportSession, number: int, event: PaymentEvent, detail: str, *, park: bool) -> Told:
    """What cannot be stored as an event: a provider's becomes a dead letter, our own sender corrects it."""
    if not park:
        return Told(number, "invalid", detail)
    return await _set_aside(session, number, DeadLetter.of_invalid(event, detail))


async def _set_aside(session: ImportSession, number: int, fact: Link | DeadLetter) -> Told:
    [outcome] = await session.set_aside([fact])
    if outcome in LINK_OUTCOMES:
        return Told(number, outcome)
    return Told(number, f"dead letter ({printable(outcome)})", getattr(fact, "detail", None))


async def _ours(line: bytes) -> list[Fact]:
    """The event of a line of our own JSON, as the plain endpoints take it."""
    try:
        return [direct.translate(line)]
    except Problem as problem:
        wrong = "; ".join(f"{error.pointer}: {error.detail}" for error in problem.errors)
        raise LineError("unreadable", wrong or problem.detail) from None


async def _theirs(adapter: Adapter, line: bytes) -> list[Fact]:
    """What a body of a provider's reports. A line of JSON text holds a body that is no JSON: a form, XML."""
    try:
        value = strict_json.parse(line)
        body = value.encode() if isinstance(value, str) else line
    except ValueError as error:  # a JsonError, or a lone surrogate
        raise LineError("unreadable", str(error)) from None
    if not isinstance(value, str | dict):
        raise LineError("unreadable", "the line is neither a JSON object nor a JSON text")
    return await _facts(adapter, body, content_type="text/plain" if isinstance(value, str) else "application/json")


async def _facts(adapter: Adapter, body: bytes, *, content_type: str) -> list[Fact]:
    """What a body reports. Raises LineError where the provider's API would have to confirm it, and does not."""
    try:
        return await adapter.facts(Delivery.kept(body, content_type))
    except FetchError as error:
        raise LineError(NOT_CONFIRMED, f"the provider's API did not tell ({error}); do this again") from None
