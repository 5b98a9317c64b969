"""Commands that act: retry, reassign, dismiss, prune. The SQL functions they call record who did what."""

import asyncio
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from service.commands.terminal import ExitStatus, Progress, complain, table
from service.database import RejectedError
from service.operations import OperatorSession
from service.text import printable

PATIENCE = 10.0
"""Seconds without any progress after which we no longer wait for the listener."""
LOOK = 0.1
"""Seconds between two looks at the queue."""
BATCH = 100
"""Dead letters retried in one transaction."""
PRUNED, PAUSE = 1_000, 4
"""Bodies deleted in one transaction, and the pause after it as a multiple of what it took: payments notice nothing."""
SHOWN = 100
"""Of more letters than this only those are shown that need a person."""
BECAME = {
    "posted": "posted",
    "reported": "known: another event posted it",
    "dead": "dead again",
    "parked": "waiting",
    "queued": "still queued",
}
"""What a retried event has become, by its place."""


async def retry(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Put dead letters back into the queue, and say what the listener made of them."""
    if options.letters:
        events = await session.events_of(options.letters)
        ids = list(dict.fromkeys(options.letters))
    else:
        events = await session.retriable(options.reason)
        ids = list(events)
    if not ids:
        print("There is no dead letter to retry. All that are open: python -m service dead")
        return ExitStatus.DONE
    refused: dict[int, str] = {}
    with Progress("retrying", len(ids)) as progress:
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            try:
                await session.retry(batch, options.actor, options.note)
            except RejectedError:  # one of them is no longer open, or never was
                refused |= await _each(batch, lambda one: session.retry([one], options.actor, options.note))
            progress(start + len(batch))
    retried = {one: events[one] for one in ids if one not in refused}
    if options.dry_run:
        print(f"Would retry {len(retried):,} dead letters, nothing was done: {', '.join(map(str, retried))}")
        return _refusals(refused)
    return max(await _outcomes(session, retried), _refusals(refused))


async def reassign(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Give a dead event to another invoice, and say what the listener made of it."""
    invoices = await session.invoices(options.invoice)
    if len(invoices) != 1:
        which = f"is that of invoices {', '.join(map(str, invoices))}: give the id" if invoices else "names no invoice"
        complain(f"{printable(options.invoice)} {which}. Nothing was done.")
        return ExitStatus.NEEDS_A_PERSON
    events = await session.events_of([options.letter])
    refused = await _each([options.letter], lambda one: session.reassign(one, invoices[0], options.actor, options.note))
    return max(await _outcomes(session, {} if refused else events), _refusals(refused))


async def dismiss(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Close dead letters that need nothing more."""
    refused = await _each(options.letters, lambda one: session.dismiss(one, options.actor, options.note))
    print(f"{len(options.letters) - len(refused)} dismissed.")
    return _refusals(refused)


async def prune(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Delete old request bodies, a fifth of the time at most."""
    total = 0
    with Progress("bodies deleted:") as progress:
        while True:
            started = time.monotonic()
            pruned = await session.prune(options.days, PRUNED, options.actor, options.note)
            if not pruned:
                break
            total += pruned
            progress(total)
            await asyncio.sleep(PAUSE * (time.monotonic() - started))
    print(f"{total:,} bodies older than {options.days} days deleted. Events, ledger and idempotency keys stay.")
    return ExitStatus.DONE


async def _each(letters: Iterable[int], act: Callable[[int], Awaitable[None]]) -> dict[int, str]:
    """Act on one after the other; why, of those that were refused."""
    refused = {}
    for letter in letters:
        try:
            await act(letter)
        except RejectedError as error:
            if error.explanation is None:  # it is not about this letter
                raise
            refused[letter] = error.explanation
    return refused


def _refusals(refused: dict[int, str]) -> ExitStatus:
    for letter, reason in refused.items():
        complain(f"{letter}: refused. {printable(reason)}")
    return ExitStatus.NEEDS_A_PERSON if refused else ExitStatus.DONE


async def _outcomes(session: OperatorSession, letters: dict[int, int]) -> ExitStatus:
    """Wait for the listener, then show what became of each letter's event."""
    if not letters:
        return ExitStatus.DONE
    events = list(letters.values())
    await _wait(session, events)
    found = await session.whereabouts(events)
    rows: list[dict[str, Any]] = [
        found[event] | {"letter": letter, "became": BECAME[found[event]["place"]]} for letter, event in letters.items()
    ]
    unsettled = [row for row in rows if row["place"] in {"dead", "queued"}]
    shown = rows if len(rows) <= SHOWN else unsettled[:SHOWN]
    if shown:
        print(table(shown, "letter", "became", "connection", "event_id", "detail"))
    counts = Counter(row["became"] for row in rows)
    print(f"\n{len(rows):,} back in the queue: {', '.join(f'{n:,} {what}' for what, n in counts.most_common())}.")
    if counts["dead again"]:
        complain("Mend the cause that the detail names, then retry. New dead letters: python -m service dead")
    if counts["still queued"]:
        complain("Those still queued are applied once a listener works and their time comes: python -m service status")
    return ExitStatus.NEEDS_A_PERSON if unsettled else ExitStatus.DONE


async def _wait(session: OperatorSession, events: Sequence[int]) -> None:
    """Until none of the events is queued any more, or nothing has moved for PATIENCE; not at all without a listener."""
    if not any(row["alive"] for row in (await session.status())["listeners"]):
        complain("No listener is alive, so nobody applies them now. Start one: python -m service.listener")
        return
    left, moved = len(events), time.monotonic()
    with Progress("applied", len(events)) as progress:
        while (queued := await session.still_queued(events)) and time.monotonic() < moved + PATIENCE:
            if queued < left:
                left, moved = queued, time.monotonic()
            progress(len(events) - queued)
            await asyncio.sleep(LOOK)
