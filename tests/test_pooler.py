"""A real PgBouncer in transaction mode between the server and PostgreSQL."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import commands, embedded, embedded_launch
from service.database import Session
from service.settings import Settings
from tests.calls import Event, add_invoice, apply, assert_consistent, drain, rows_of
from tests.conftest import Connection, needs
from tests.console import opened
from tests.http_service import free_port, serving
from tests.test_listener import HELD, listening, seconds_to_apply

PGBOUNCER = shutil.which("pgbouncer", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
pytestmark = needs(PGBOUNCER, "pgbouncer is not installed (Debian: pgbouncer)")


@pytest.fixture
def pooled_url(cluster: embedded.Server, database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the test's database through a pool of three connections, which change hands with each transaction."""
    assert PGBOUNCER is not None, "install pgbouncer"
    name = database_url.partition("@/")[2].partition("?")[0]
    socket_dir = next((cluster.data_dir / "socket").glob(".s.PGSQL.*[0-9]")).parent
    port = free_port()
    (tmp_path / "users.txt").write_text('"postgres" ""\n')
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{name} = host={socket_dir} port=5432 user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {tmp_path}/users.txt\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    owner = socket_dir.stat()  # the one user that passes; as root PgBouncer refuses to run, as PostgreSQL does
    identity = "self" if os.geteuid() else f"{owner.st_uid}:{owner.st_gid}" if owner.st_uid else "namespace"
    launcher = [sys.executable, "-I", embedded_launch.__file__, str(os.getpid()), identity]
    if identity not in {"self", "namespace"}:
        for path in (tmp_path, *tmp_path.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
    process = subprocess.Popen(
        [*launcher, PGBOUNCER, str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            time.sleep(0.02)
        yield f"postgresql://postgres@127.0.0.1:{port}/{name}"
    finally:
        process.terminate()
        process.wait()


async def test_the_server_works_behind_a_pooler_in_transaction_mode(pooled_url: str, db: Connection) -> None:
    for invoice in range(1, 6):
        await add_invoice(db, invoice, amount=10**9)
    async with Session(pooled_url, "test") as session:
        await session.connection()
        assert session.pooled
    async with serving(pooled_url) as one, serving(pooled_url) as other:
        answers = await asyncio.gather(
            *(one.apply(f"a{n}", 1 + n % 5, 2) for n in range(200)),
            *(other.enqueue(f"q{n}", 1 + n % 5, 3) for n in range(200)),
        )
        async with one.session.get(one.url + "/readyz") as ready:
            assert ready.status == 200
    assert sorted(set(answers)) == [(200, "applied"), (202, "queued")]
    await drain(db)
    await assert_consistent(db)
    assert await rows_of(db, "select distinct amount_paid from invoices") == [(40 * 2 + 40 * 3,)]


async def test_a_direct_connection_is_told_from_a_pooled_one(database_url: str) -> None:
    async with Session(database_url, "test") as session:
        await session.connection()
        assert not session.pooled


async def test_the_listener_polls_behind_a_pooler_in_transaction_mode(pooled_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    async with listening(pooled_url, poll_interval=0.3) as one, listening(pooled_url, poll_interval=0.3) as other:
        for number in range(3):
            assert await seconds_to_apply(db, f"e{number}") < 1
        assert not one.watching
        assert not other.watching
        assert await db.fetchval(HELD) == 0
    await assert_consistent(db)


async def test_the_operators_commands_work_through_it_and_doctor_tells_of_it(
    pooled_url: str, db: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    await add_invoice(db, 1)
    await db.execute("select apply_payment_event('e1', 1, 5, p_currency => 'EUR', p_park => true)")
    await db.execute("update invoices set currency = 'EUR'")
    settings = Settings(database_url=pooled_url)
    assert await asyncio.to_thread(commands.run, settings, ["retry", "--all", "--dry-run"]) == 0
    assert await db.fetchval("select count(*) from payment_queue") == 0
    assert await asyncio.to_thread(commands.run, settings, ["retry", "--all"]) == 1  # queued: no listener
    await drain(db)
    await assert_consistent(db)
    capfd.readouterr()
    await asyncio.to_thread(commands.run, settings, ["doctor"])
    said = capfd.readouterr().out
    assert "note  DATABASE_URL goes through a pooler in transaction mode" in said
    assert "note  NOTIFY: not tried" in said
    assert "ok    books: every event is in exactly one place" in said


async def test_the_console_works_through_it_and_looks_by_the_poll(pooled_url: str, db: Connection) -> None:
    await add_invoice(db, 1)
    await apply(db, Event("e1", 1, 5, currency="EUR"), park=True)
    async with opened(pooled_url) as console:
        await console.sign_in()
        assert (await console.act("/console/dead/1/dismiss"))[0] == 303
        async with console.session.get(f"{console.url}/console/events") as events, asyncio.timeout(20):
            await events.content.readuntil(b"\n\n")
            await apply(db, Event("seen", 1, 5))
            while b"seen" not in await events.content.readuntil(b"\n\n"):
                pass
    assert await rows_of(db, "select actor, action from operator_actions") == [("alice", "dismissed")]
