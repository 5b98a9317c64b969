"""The operator's command line: `python -m service WORD`. What psql does, as a person or a script wants it."""

import asyncio
import getpass
import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from service import embedded
from service.commands import act, doctor, importing, look
from service.commands.terminal import ExitStatus, complain
from service.database import RejectedError, UnavailableError
from service.operations import PAGE, OperatorSession
from service.settings import Settings
from service.text import printable

HELP = """\
python -m service              run everything on this machine: PostgreSQL, server, listener
python -m service WORD --help  tells more about each of these:

  Is all well?
    status      what waits, what is dead, which listeners live
    doctor      look at settings, logins, database, queue and books; each finding with what to do

  What happened?
    invoice     an invoice, and everything about it with the running balance
    event       an event by its id or a reference: where it is, why, and who did what to it
    dead        the dead letters, or one of them with the body it came in

  Mend it
    retry       put dead letters back into the queue, and see what becomes of them
    reread      read dead letters that are no events anew, after a setting was mended
    reassign    give a dead event to another invoice
    dismiss     close dead letters that need nothing more
    import      events that never came by webhook, from a provider's export

  Look after it
    prune       delete old request bodies
    psql        open psql on the database
    send        send a signed sample event to a running server

The database is that of OPERATOR_DATABASE_URL (a login that is a member of the role operator), else of DATABASE_URL,
else the embedded one that runs on DATA_DIR. What a command does is recorded under your name (--as NAME).

Exit status: 0 done, and all is well; 1 something was refused or needs a person; 2 the command line or a setting is
wrong, nothing was done; 3 the database cannot be reached, or broke off.
"""
PROGRAM = "python -m service"
STATUSES = "Exit status: 0 %s; 1 %s;\n2 wrong command line or setting; 3 database unreachable."
REFUSED = (
    "The login has to be a member of the role <database>_<schema>_operator: grant it, or set OPERATOR_DATABASE_URL to "
    "one that is. See python -m service doctor."
)
NAME = "payment_webhooks command"
"""What its connections are called in pg_stat_activity."""
BY_SIGNAL = 128
"""And the signal's number: the exit status after Ctrl-C, and when a pipe's reader has gone, as shells have it."""
Command: TypeAlias = Callable[[OperatorSession, Namespace], Awaitable[ExitStatus]]


def operator_url(settings: Settings) -> str:
    """The database as the operator reaches it. Raises UnavailableError where there is none."""
    return settings.operator_database_url or _database_url(settings)


def _database_url(settings: Settings) -> str:
    url = settings.database_url or embedded.running_url(settings.data_dir)
    if url is None:
        raise UnavailableError(f"DATABASE_URL is not set, and no service runs on {settings.data_dir}")
    return url


def unreachable(error: Exception) -> str:
    """What to tell a person, and what to do."""
    return (
        f"The database cannot be reached ({error}). Start it, or say where it is by OPERATOR_DATABASE_URL, "
        "DATABASE_URL or, for that of python -m service, DATA_DIR."
    )


def run(settings: Settings, arguments: Sequence[str]) -> int:
    """Run one command; the process's exit status. Raises SystemExit (2) for a wrong command line, SettingsError."""
    options = _parser().parse_args(arguments, Namespace(settings=settings, dry_run=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no letter for it
    try:
        status = asyncio.run(_run(options))
        sys.stdout.flush()
    except UnavailableError as error:
        complain(unreachable(error))
        return ExitStatus.UNREACHABLE
    except BrokenPipeError:  # `| head` has seen enough; nothing must be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BY_SIGNAL + signal.SIGPIPE
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    return status


async def _run(options: Namespace) -> int:
    command: Command = options.command
    if command is doctor.doctor:
        options.server_url = _database_url(options.settings)
    async with OperatorSession(operator_url(options.settings), NAME, dry_run=options.dry_run) as session:
        try:
            return await command(session, options)
        except RejectedError as error:
            if (error.sqlstate or "").startswith(("28", "3D")):  # it lets us not even in
                raise UnavailableError(f"it refuses the login, {error}", error.sqlstate) from None
            todo = REFUSED if error.sqlstate == "42501" else "PostgreSQL's log has the message."
            complain(error.explanation or await session.unready() or f"The database refused it ({error}). {todo}")
            return ExitStatus.NEEDS_A_PERSON


def _parser() -> ArgumentParser:
    parser = _Parser(prog=PROGRAM)
    words = parser.add_subparsers(required=True, metavar="WORD", prog=PROGRAM)

    def word(name: str, command: Command, text: str, zero: str, one: str) -> ArgumentParser:
        described = words.add_parser(
            name, description=text, epilog=STATUSES % (zero, one), formatter_class=RawDescriptionHelpFormatter
        )
        described.set_defaults(command=command)
        return described

    status = word("status", look.status, STATUS, "all is well", "something needs a person, and it says what")
    _json(status)
    invoice = word("invoice", look.invoice, INVOICE, "found", "there is no such invoice")
    invoice.add_argument(
        "invoice", metavar="INVOICE", type=_text, help="its id (42), or a reference of it (INV-2026-001)"
    )
    _json(invoice)
    event = word("event", look.event, EVENT, "found", "there is no such event")
    event.add_argument(
        "event", metavar="EVENT", type=_text, help="its id (evt_…), or the reference of a movement of money"
    )
    _json(event)
    dead = word("dead", look.dead, DEAD, "shown", "there is no such dead letter")
    dead.add_argument("letter", metavar="ID", nargs="?", type=_id, help="show this one, with its body")
    dead.add_argument("--reason", type=_text, help="only those of this reason, such as attempts_exhausted")
    dead.add_argument("--after", metavar="ID", type=_id, default=0, help="the page after this one")
    dead.add_argument("--limit", metavar="N", type=_positive, default=PAGE, help="so many at once (%(default)s)")
    _json(dead)

    retry = word("retry", act.retry, RETRY, "all were applied", "one was refused, is dead again or still queued")
    chosen = retry.add_mutually_exclusive_group(required=True)
    chosen.add_argument("letters", metavar="ID", nargs="*", default=[], type=_id, help="of a dead letter")
    chosen.add_argument("--reason", type=_text, help="all of this reason")
    chosen.add_argument("--all", action="store_true", help="all that are events")
    retry.add_argument("--dry-run", action="store_true", help="say what would be retried, and do nothing")
    _recorded(retry)
    reread = word("reread", importing.reread, REREAD, "all are of use now", "one is as before, and it says why")
    chosen = reread.add_mutually_exclusive_group(required=True)
    chosen.add_argument("letters", metavar="ID", nargs="*", default=[], type=_id, help="of a dead letter")
    chosen.add_argument("--reason", help="all of this reason, such as wrong_mode")
    reread.add_argument("--dry-run", action="store_true", help="say what would become of them, and do nothing")
    _recorded(reread)
    reassign = word("reassign", act.reassign, REASSIGN, "applied", "refused, dead again or still queued")
    reassign.add_argument("letter", metavar="ID", type=_id, help="of a dead letter")
    reassign.add_argument("invoice", metavar="INVOICE", type=_text, help="id or reference of the right invoice")
    _recorded(reassign)
    dismiss = word("dismiss", act.dismiss, DISMISS, "all dismissed", "one was refused, and it says why")
    dismiss.add_argument("letters", metavar="ID", nargs="+", type=_id, help="of a dead letter")
    _recorded(dismiss, required=True)
    imported = word("import", importing.import_file, IMPORT, "all taken or known", "a line needs a person")
    imported.add_argument("connection", help="payments (our own JSON), or a provider's connection such as stripe")
    imported.add_argument("file", metavar="FILE", type=_source, help="JSON lines; - reads standard input")
    imported.add_argument("--dry-run", action="store_true", help="say what would become of each line, and do nothing")
    _recorded(imported)
    prune = word("prune", act.prune, PRUNE, "done", "refused")
    prune.add_argument("--days", metavar="N", type=_positive, required=True, help="bodies older than so many days")
    _recorded(prune)
    word("doctor", doctor.doctor, DOCTOR, "nothing is BAD", "something is BAD, and it says what to do")
    return parser


class _Parser(ArgumentParser):
    def error(self, message: str) -> Any:
        """Say what is wrong and where the help is. Raises SystemExit (2)."""
        complain(f"{self.prog}: {printable(message)}\nSee {self.prog} --help.")
        sys.exit(ExitStatus.USAGE)


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for scripts: ISO 8601 times, intervals in seconds")


def _recorded(parser: ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument("--note", type=_text, required=required, help="why; recorded with the action")
    parser.add_argument(
        "--as",
        dest="actor",
        metavar="NAME",
        type=_text,
        default=user(),
        help="record it under this name (%(default)s)",
    )


def user() -> str | None:
    """Who uses this machine; None for a container's user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # then the database's login counts
        return None


def _text(text: str) -> str:
    if not text.strip() or any("\ud800" <= one <= "\udfff" for one in text):  # as the shell's bytes that are no text
        raise ArgumentTypeError("expected text, in the terminal's encoding")
    return text


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise ArgumentTypeError(f"expected the id of a dead letter, a number, not {text}")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise ArgumentTypeError(f"expected a number from 1 to 1000000, not {text}")
    return int(text)


def _source(name: str) -> BinaryIO:
    try:
        return sys.stdin.buffer if name == "-" else Path(name).open("rb")
    except OSError as error:
        raise ArgumentTypeError(f"cannot read {name}: {error.strerror}") from None


STATUS = """\
What waits, what is dead, how fast events come and post (a second, over the last minute), and which listeners live.

Something needs a person when no listener is alive, when there are dead letters, when an event has been due for more
than three POLL_INTERVALs, or when the database is older than this program."""
INVOICE = """\
An invoice: its sums, its other names, and everything about it in order: what posted, with the running balance (net
received), and what only reported, waits or is dead, without one. Amounts are in minor units (cents)."""
EVENT = """\
Every event of this event id or reference, in any connection: where it is (queued, parked, posted, reported: another
event posted the same money, or dead) and why; what operators did to it; its dead letters."""
DEAD = """\
The open dead letters, oldest first: what needs a person, and why. With an ID one of them, open or not, with the body
it came in."""
RETRY = """\
Put dead letters back into the queue once their cause is mended, wait for the listener (for as long as something moves
in 10 s), and say what became of each. A letter that is no event (unreadable, or other content under a known event id)
cannot be retried: reread it once a setting is mended, or apply what is right and dismiss it.

  python -m service retry 7 8 --note "invoice was in the wrong currency"
  python -m service retry --reason attempts_exhausted --dry-run"""
REREAD = """\
Read the bodies of dead letters that are no events (unreadable, wrong_mode, no_invoice …) anew, as the connections'
settings have it now, and put what they report into the queue, as import does. A letter whose body is of use now is
closed; one that is not stays open.

  python -m service reread --reason wrong_mode --dry-run"""
REASSIGN = """\
Give a dead event to another invoice than the one it named, put it back into the queue, and say what became of it. The
event itself stays as it was reported.

  python -m service reassign 7 42 --note "customer wrote the old number\""""
DISMISS = """\
Close dead letters that need nothing more, such as test events. The same report does not open them again.

  python -m service dismiss 7 8 --note "test events of our own\""""
IMPORT = """\
Events that never came by webhook, from a provider's export with one event a line, through the connection's adapter
into the queue: the same deduplication, so that a file may hold what is known already and may be imported twice.
Signatures are not checked; you vouch for the file, and each new event is recorded under your name.

A line is what the body of the webhook would be: a JSON object, or for bodies that are no JSON (forms, XML) a JSON text
with the body in it. A line that is neither is left out. What the adapter cannot use becomes a dead letter, as by
webhook; what our own JSON gets wrong or names no known invoice is left out. All these are listed by line number.

  stripe events list --limit 100 | jq -c '.data[]' > events.jsonl
  python -m service import stripe events.jsonl --dry-run"""
PRUNE = """\
Delete request bodies that are older, in small steps with pauses, but none of an open dead letter. Events, ledger and
idempotency keys stay, so nothing can post twice.

  python -m service prune --days 90"""
DOCTOR = """\
Look at settings, migrations, logins and their limits, schema, clocks, pooler, NOTIFY, durability, queue, listeners
and books. Give it the environment of a server or listener, and OPERATOR_DATABASE_URL. ok: as it should be; note: worth
knowing; BAD: with what to do. It reads the whole ledger once."""
