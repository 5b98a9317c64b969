"""The PostgreSQL under test, and databases that come and go on it."""

import contextlib
import itertools
import os
import platform
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import asyncpg

from service import embedded, migrate

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PREFIX = "payments_benchmark"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Target:
    """A server on which we are a superuser. `postmaster` is its process id, 0 where it is not ours to look at."""

    url: str
    pgbench: Path
    postmaster: int

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        return re.sub("(://[^/?]*)(/[^?]*)?", rf"\1/{database}", self.url, count=1)

    @contextlib.asynccontextmanager
    async def connect(self, database: str = "postgres") -> AsyncIterator[Connection]:
        """A connection for the block."""
        connection: Connection = await asyncpg.connect(self.url_of(database), command_timeout=None)
        try:
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def database(
        self, *, template: "Database | None" = None, invoices: int = 100_000
    ) -> AsyncIterator["Database"]:
        """A database for the block: migrated and with so many invoices, or a copy of `template`."""
        database = Database(self, f"{PREFIX}_{next(_numbers)}", template.invoices if template else invoices)
        if template:
            async with self.connect() as admin:
                await admin.execute(f"create database {database.name} template {template.name} strategy file_copy")
        else:
            await migrate.up(database.url)
            async with database.connect() as db:
                await db.execute(
                    "insert into invoices (id, amount) select i, 10^14 from generate_series(1, $1) i", invoices
                )
                await db.execute("vacuum analyze")
        try:
            yield database
        finally:
            async with self.connect() as admin:
                await admin.execute(f"drop database {database.name} with (force)")

    async def clear(self) -> None:
        """Drop our databases, and their roles, which belong to the cluster."""
        async with self.connect() as admin:
            for row in await admin.fetch("select datname from pg_database where starts_with(datname, $1)", PREFIX):
                await admin.execute(f"drop database if exists {row['datname']} with (force)")
            for row in await admin.fetch(
                "select quote_ident(rolname) as name from pg_roles"
                " where starts_with(shobj_description(oid, 'pg_authid'), $1)",
                f"payment webhooks of database {PREFIX}",
            ):
                await admin.execute(f"drop role {row['name']}")

    async def describe(self) -> str:
        """The machine and the server, and the settings that decide most."""
        async with self.connect() as admin:
            version = await admin.fetchval("show server_version")
            rows = await admin.fetch(
                "select name, current_setting(name) as value from pg_settings where name in ('fsync', 'autovacuum',"
                " 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size',"
                " 'checkpoint_timeout', 'huge_pages_status') order by name"
            )
        return (
            f"{machine()}. PostgreSQL {version}, "
            + ", ".join(f"{row['name']} {row['value']}" for row in rows) + "."
        )  # fmt: skip


@dataclass(frozen=True)
class Database:
    """A database of the target: `invoices` of them, by the ids from 1 on, each over 10^12 USD."""

    target: Target
    name: str
    invoices: int

    @property
    def url(self) -> str:
        return self.target.url_of(self.name)

    def connect(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """A connection for the block."""
        return self.target.connect(self.name)


def machine() -> str:
    """Processor, memory, system and Python of this machine."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({processor[1] if processor else platform.machine()}), {memory:.0f} GB of memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


@contextlib.contextmanager
def serving(settings: Mapping[str, str]) -> Iterator[Target]:
    """The server of DATABASE_URL, as it is, or an embedded one of its own with `settings` besides its own."""
    if url := os.environ.get("DATABASE_URL"):
        pgbench = shutil.which("pgbench")
        if pgbench is None:
            raise SystemExit(
                "pgbench is not in PATH. Install PostgreSQL's client programs (Debian: postgresql-contrib)."
            )
        yield Target(url, Path(pgbench), 0)
        return
    with (
        tempfile.TemporaryDirectory(prefix="payments-benchmark-") as folder,
        embedded.start(Path(folder), settings=settings) as server,
    ):
        yield Target(server.url, server.bin_dir / "pgbench", server.pid)
