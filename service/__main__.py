"""`python -m service`: everything on one machine, until Ctrl-C or SIGTERM."""

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path

from service import embedded, migrate


async def run(data_dir: Path) -> None:
    """Start the embedded PostgreSQL of `data_dir`, migrate it, say where it is, and wait for the signal to end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with embedded.start(data_dir) as server:
        await migrate.up(server.url)
        psql = shlex.join([str(server.bin_dir / "psql"), server.url])
        print(
            f"Payment webhooks: PostgreSQL is up and migrated.\n\n"
            f"  data      {server.data_dir}\n"
            f"  database  {server.url}\n"
            f"  try       {psql}\n\n"
            "Ctrl-C ends it; the data stays.",
            flush=True,
        )
        await stop.wait()


def main() -> None:
    """Run with the data folder that DATA_DIR names, by default `.data` in the current folder."""
    try:
        asyncio.run(run(Path(os.environ.get("DATA_DIR", ".data"))))
    except (embedded.EmbeddedError, migrate.MigrationError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
