"""Commands that look: status, invoice, event, dead."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from service.commands.terminal import ExitStatus, cell, complain, listed, print_json, table
from service.migrate import MIGRATE, newest_version
from service.operations import OVERDUE_POLLS, OperatorSession
from service.text import printable


async def status(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Whether all is well, and the numbers behind it."""
    state = await session.status()
    wrong = problems(state, options.settings.poll_interval)
    found = ExitStatus.NEEDS_A_PERSON if wrong else ExitStatus.DONE
    if options.json:
        print_json({"healthy": not wrong, "problems": wrong} | state)
        return found
    shown = state | {
        "received": f"{state['received']:.1f} events a second",
        "posted": f"{state['posted']:.1f} events a second",
        "overdue": state["longest_overdue"] or None,
        "listeners": f"{sum(row['alive'] for row in state['listeners'])} alive",
    }
    names = "queued", "retrying", "overdue", "parked", "parked_since", "dead", "received", "posted", "listeners"
    print(listed(shown, *names, "migration"))
    if state["dead_by_reason"]:
        print(f"\n{table(state['dead_by_reason'], 'reason', 'letters', 'retriable', 'oldest', 'newest')}")
    if state["listeners"]:
        print(f"\n{table(state['listeners'], 'name', 'alive', 'watching', 'started_at', 'silent')}")
    print("\nNeeds a person:" if wrong else "\nAll is well.")
    for problem in wrong:
        print(f"  {problem}")
    return found


def problems(state: Mapping[str, Any], poll_interval: float) -> list[str]:
    """What needs a person in what OperatorSession.status() says, each with what to do; `poll_interval` in seconds."""
    found = []
    if not any(row["alive"] for row in state["listeners"]):
        found.append("No listener is alive, so nothing queued is applied. Start one: python -m service.listener")
    if (overdue := state["longest_overdue"]) > timedelta(seconds=OVERDUE_POLLS * poll_interval):
        found.append(f"An event has been due for {cell(overdue)}. See what holds it: python -m service doctor")
    if state["dead"]:
        found.append(f"Dead letters: {state['dead']:,}. See why: python -m service dead")
    if state["migration"] < newest_version():
        found.append(f"The database stands at migration {state['migration']}. Run {MIGRATE}.")
    return found


async def invoice(session: OperatorSession, options: Namespace) -> ExitStatus:
    """The invoices of an id or reference, each with its timeline."""
    found = [await session.invoice(number) for number in await session.invoices(options.invoice)]
    if options.json:
        print_json(found)
    for one in () if options.json else filter(None, found):
        print(f"Invoice {one['id']} is {one['status']}. Amounts are in minor units of {one['currency']}.\n")
        print(table([one], "amount", "paid", "refunded", "charged_back", "due", "overpaid", "created_at", "updated_at"))
        if one["references"]:
            print(f"\n{table(one['references'], 'connection', 'reference')}")
        columns = "at", "place", "connection", "event_id", "kind", "amount", "balance", "reference", "detail"
        print(f"\n{table(one['timeline'], *columns)}\n")
    if not found:
        complain(
            f"No invoice has the id or the reference {printable(options.invoice)}. Events that wait for it: "
            f"python -m service event {printable(options.invoice)}"
        )
        return ExitStatus.NEEDS_A_PERSON
    return ExitStatus.DONE


async def event(session: OperatorSession, options: Namespace) -> ExitStatus:
    """The events of an event id or a reference, with what operators did and the dead letters."""
    found = [await session.event(row["id"]) for row in await session.events(options.event)]
    events = [one | {"letters": list(map(_with_report, one["letters"]))} for one in found if one is not None]
    known = {letter["id"] for one in events for letter in one["letters"]}
    others = [_with_report(one) for one in await session.letters_named(options.event) if one["id"] not in known]
    if options.json:
        print_json({"events": events, "dead_letters": others})
    else:
        for one in events:
            print(listed(one, *(name for name in one if name not in {"id", "state", "letters", "actions"})))
            if one["actions"]:
                print(f"\n{table(one['actions'], 'acted_at', 'actor', 'action', 'dead_letter_id', 'note')}")
            _print_letters(one["letters"])
            print()
        _print_letters(others)
    if not events and not others:
        complain(
            f"No event has the id or the reference {printable(options.event)}: it never came, or was refused. "
            "If the provider has it: python -m service import --help"
        )
        return ExitStatus.NEEDS_A_PERSON
    return ExitStatus.DONE


def _print_letters(letters: Sequence[Mapping[str, Any]]) -> None:
    if letters:
        columns = "id", "died_at", "connection", "event_id", "reason", "resolution", "resolved_at", "detail"
        print(f"\nDead letters (python -m service dead ID shows one):\n{table(letters, *columns)}")


async def dead(session: OperatorSession, options: Namespace) -> ExitStatus:
    """A page of the open dead letters, or one of them with its body."""
    if options.letter is not None:
        return await _one(session, options)
    letters = await session.dead_letters(options.reason, options.after, options.limit)
    if options.json:
        print_json([_with_report(letter) for letter in letters])
    elif letters:
        columns = "id", "died_at", "reason", "connection", "event_id", "kind", "amount", "currency", "invoice_id"
        print(table(letters, *columns, "detail"))
    else:
        print("No such dead letter is open." if options.after or options.reason else "No dead letter is open.")
    if len(letters) == options.limit:
        reason = f" --reason {printable(options.reason)}" if options.reason else ""
        complain(f"\nThe next page: python -m service dead{reason} --after {letters[-1]['id']}")
    if letters and not options.json:
        complain("\nOne with its body: dead ID. Once the cause is mended: retry ID. See python -m service --help")
    return ExitStatus.DONE


async def _one(session: OperatorSession, options: Namespace) -> ExitStatus:
    letter = await session.dead_letter(options.letter)
    if letter is None:
        complain(f"There is no dead letter {options.letter}. The open ones: python -m service dead")
        return ExitStatus.NEEDS_A_PERSON
    body = await session.body(letter["delivery_id"])
    text = None if body is None else body.decode(errors="backslashreplace")
    if options.json:
        print_json(_with_report(letter) | {"body": text})
        return ExitStatus.DONE
    hidden = {"payment_event_id", "delivery_id", "fingerprint", "actions", "event"}
    print(listed(letter, *(name for name in letter if name not in hidden)))
    if letter["event"]:
        columns = "kind", "amount", "currency", "invoice_id", "invoice_reference", "reference", "parent_reference"
        print(f"\nThe event is {letter['event']['place']}:\n{table([letter['event']], *columns, 'received_at')}")
    if letter["actions"]:
        print(f"\n{table(letter['actions'], 'acted_at', 'actor', 'action', 'note')}")
    print("\nThe body:" if text is not None else "\nThe body is pruned, or there was none.")
    for line in (text or "").split("\n"):
        print(printable(line))
    return ExitStatus.DONE


def _with_report(letter: Mapping[str, Any]) -> dict[str, Any]:
    """The letter with its report as a value: asyncpg gives jsonb as text."""
    return {**letter, "report": letter["report"] and json.loads(letter["report"])}
