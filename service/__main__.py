"""`python -m service`: everything on one machine, until Ctrl-C or SIGTERM.

`python -m service psql [ARGUMENT...]` opens psql on the database of a service that runs, or of DATABASE_URL.
`python -m service send CONNECTION` sends a signed sample event to a server that runs; --help tells more.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence

import uvloop

from service import embedded, listener, log, migrate, process, send, server
from service.environment import SettingsError
from service.settings import Settings, from_environment

BANNER = """\
Payment webhooks are up.

  apply now   POST http://{host}:{port}/webhooks-sync/payments
  queue       POST http://{host}:{port}/webhooks/payments
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
            tasks.create_task(server.serve(settings, stop, on_started=lambda: print(banner, flush=True)))
            tasks.create_task(listener.run(settings, stop))


def psql(settings: Settings, arguments: Sequence[str]) -> None:
    """Become psql. Raises SettingsError where there is no database, EmbeddedError where there is no psql."""
    url = settings.database_url or embedded.running_url(settings.data_dir)
    if url is None:
        raise SettingsError(f"No service runs on {settings.data_dir}. Start python -m service, or set DATABASE_URL.")
    program = shutil.which("psql") or str(embedded.wheel_bin_dir() / "psql")
    os.execv(program, ["psql", url, *arguments])


def main() -> None:
    """Run with the settings of the environment; without WEBHOOK_SECRETS events of this machine are taken unsigned."""
    try:
        settings = from_environment(os.environ, allow_unsigned=True)
        match sys.argv[1:]:
            case []:
                log.configure(settings.log_format)
                uvloop.run(process.run_until_signalled(run, settings))
            case ["psql", *arguments]:
                psql(settings, arguments)
            case ["send", *arguments]:
                sys.exit(send.run(settings, arguments))
            case _:
                sys.exit(str(__doc__))
    except* (SettingsError, embedded.EmbeddedError, migrate.MigrationError) as errors:
        sys.exit("\n".join(map(str, errors.exceptions)))


if __name__ == "__main__":
    main()
