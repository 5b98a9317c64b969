"""`python -m service`: everything on one machine, until Ctrl-C or SIGTERM; with a word, the operator's command line."""

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence

import uvloop

from service import commands, embedded, listener, log, migrate, process, send, server
from service.commands.terminal import ExitStatus
from service.database import UnavailableError
from service.environment import SettingsError
from service.settings import Settings, from_environment

BANNER = """\
Payment webhooks are up.

  apply now   POST http://{host}:{port}/webhooks-sync/payments
  queue       POST http://{host}:{port}/webhooks/payments
  console     http://{admin_host}:{admin_port}/console
  docs        http://{admin_host}:{admin_port}/docs
  data        {data}
  database    {database}

Try it:

  {psql} -c "insert into invoices (id, amount, status) values (1, 10000, 'sent')"
  curl http://{host}:{port}/webhooks-sync/payments -H 'Content-Type: application/json' \\
       -d '{{"event_id": "event_12345", "invoice_id": 1, "amount": 5000}}'

Ctrl-C ends it; the data stays.
"""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve the database of `settings`, or an embedded one, with one server and one listener in this process."""
    with contextlib.ExitStack() as stack:
        data = database = "where DATABASE_URL says"
        postgres: embedded.Server | None = None
        if settings.database_url is None:
            postgres = stack.enter_context(embedded.start(settings.data_dir))
            data, database = str(postgres.data_dir), postgres.url
            settings = settings.model_copy(update={"database_url": postgres.url})
        await migrate.up(settings.required_database_url)
        banner = BANNER.format(
            **settings.model_dump(include={"host", "port", "admin_host", "admin_port"}),
            data=data,
            database=database,
            psql=shlex.join([sys.executable, "-m", "service", "psql"]),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                server.serve(
                    settings,
                    stop,
                    on_started=lambda: print(banner, flush=True),
                    local_operator=commands.user() or "local",
                )
            )
            tasks.create_task(listener.run(settings, stop))
            if postgres is not None:
                tasks.create_task(_end_with(postgres, stop))


async def _end_with(postgres: embedded.Server, stop: asyncio.Event) -> None:
    """Raise EmbeddedError should PostgreSQL end before `stop`: whatever restarts us restarts both."""
    while not stop.is_set():
        if not postgres.running:
            raise embedded.EmbeddedError(
                f"PostgreSQL (process {postgres.pid}) has ended; {postgres.data_dir / 'server.log'} may say why. "
                "Start again: what was acknowledged is there."
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)


def psql(settings: Settings, arguments: Sequence[str]) -> None:
    """Become psql on the operator's database. Raises UnavailableError, or EmbeddedError where there is no psql."""
    program = shutil.which("psql") or str(embedded.wheel_bin_dir() / "psql")
    os.execv(program, ["psql", commands.operator_url(settings), *arguments])


def main() -> None:
    """Run with the settings of the environment; without WEBHOOK_SECRETS events of this machine are taken unsigned."""
    ended: tuple[Iterable[object], ExitStatus] | None = None
    try:
        match sys.argv[1:]:
            case ["-h" | "--help" | "help"]:
                print(commands.HELP, end="")
            case arguments:
                _main(from_environment(os.environ, allow_unsigned=True), arguments)
    except* SettingsError as errors:
        ended = errors.exceptions, ExitStatus.USAGE
    except* UnavailableError as errors:
        ended = map(commands.unreachable, errors.exceptions), ExitStatus.UNREACHABLE
    except* (embedded.EmbeddedError, migrate.MigrationError) as errors:
        ended = errors.exceptions, ExitStatus.NEEDS_A_PERSON
    if ended is not None:  # sys.exit() within except* is swallowed by some versions of Python 3.11
        print("\n".join(map(str, ended[0])), file=sys.stderr)
        sys.exit(ended[1])


def _main(settings: Settings, arguments: Sequence[str]) -> None:
    match arguments:
        case []:
            log.configure(settings.log_format)
            uvloop.run(process.run_until_signalled(run, settings))
        case ["psql", *rest]:
            psql(settings, rest)
        case ["send", *rest]:
            sys.exit(send.run(settings, rest))
        case _:
            sys.exit(commands.run(settings, arguments))


if __name__ == "__main__":
    main()
