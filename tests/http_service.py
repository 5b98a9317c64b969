"""A server of ours for a test: in the test's own loop, or as a process that can be killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from service import admin
from service.adapters import standard_webhooks
from service.server import Server
from service.settings import Settings

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
JSON = {"Content-Type": "application/json"}


class Client:
    """Sends events to a server on a port of this machine."""

    def __init__(self, port: int, session: aiohttp.ClientSession):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.session = session

    async def post(
        self, path: str, body: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
        """Status, JSON and the response itself; without `headers` unsigned JSON."""
        options: dict[str, Any] = {"json": body} if isinstance(body, dict) else {"data": body}
        async with self.session.post(
            self.url + path, headers=JSON if headers is None else headers, **options
        ) as response:
            return response.status, await response.json(content_type=None), response

    async def apply(self, event_id: str, invoice_id: int, amount: int, **fields: Any) -> tuple[int, str]:
        return await self._send("/webhooks-sync/payments", event_id, invoice_id, amount, fields)

    async def enqueue(self, event_id: str, invoice_id: int, amount: int, **fields: Any) -> tuple[int, str]:
        return await self._send("/webhooks/payments", event_id, invoice_id, amount, fields)

    async def _send(
        self, path: str, event_id: str, invoice_id: int, amount: int, fields: dict[str, Any]
    ) -> tuple[int, str]:
        """Status, and the outcome or the problem's name."""
        event = {"event_id": event_id, "invoice_id": invoice_id, "amount": amount, **fields}
        status, answer, _ = await self.post(path, event)
        return status, answer.get("outcome") or str(answer["type"]).rpartition(":")[2]

    async def raw(self, request: bytes, *, eof: bool = False, patience: float = 15) -> bytes:
        """Everything the server says to these very bytes until it closes, or until its first answer is whole."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            if eof:
                writer.write_eof()
            async with asyncio.timeout(patience):
                with contextlib.suppress(ConnectionError):
                    return await reader.read(65536)
            return b""
        finally:
            writer.close()


def settings(url: str, **values: Any) -> Settings:
    defaults: dict[str, Any] = {"database_url": url, "allow_unsigned": True, "port": 0, "admin_port": 0}
    return Settings(**(defaults | values))


@contextlib.asynccontextmanager
async def serving(url: str, **values: Any) -> AsyncIterator[Client]:
    """A server in this loop, on a port of its own."""
    server = Server(settings(url, **values))
    runner = await admin.listen(server.runner(), "127.0.0.1", 0, "PORT")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Client(runner.addresses[0][1], session)
    finally:
        await runner.cleanup()
        await server.close()


def signed(body: bytes, key: bytes = KEY, message_id: str = "msg_1", at: float | None = None) -> dict[str, str]:
    """The headers of a signed request."""
    now = int(time.time() if at is None else at)
    return JSON | dict(standard_webhooks.SCHEME.headers(key, body, now, message_id))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Process:
    """A process of ours, `python -m MODULE`, which never outlives the test."""

    def __init__(self, module: str, url: str, **environment: str):
        self.port = free_port()
        self.admin_port = free_port()
        variables = {"PORT": str(self.port), "ADMIN_PORT": str(self.admin_port)} | environment
        if url:
            variables = {"DATABASE_URL": url} | variables
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    async def up(self, session: aiohttp.ClientSession, path: str = "/readyz") -> Client:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self.port}{path}") as response:
                        if response.status == 200:
                            return Client(self.port, session)
                if self.process.poll() is not None:
                    raise AssertionError(self.process.communicate()[0])
                await asyncio.sleep(0.02)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and what it printed."""
        self.process.send_signal(how)
        said, _ = await asyncio.to_thread(self.process.communicate, timeout=20)
        return self.process.returncode, said
