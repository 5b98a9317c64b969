"""`python -m tests.benchmarks.controls KIND`: what the server is compared with, on the same HTTP stack.

The first three are the server with its later steps left out, so that their differences say what each step takes.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import uvloop
from aiohttp import web

from service import admin
from service.adapters.adapter import Fact
from service.database import APPLY, PaymentEvent, Result, Session, columns, results
from service.process import run_until_signalled
from service.server import Server
from service.settings import Settings, from_environment


class HttpAlone(Server):
    """Answers every request alike."""

    def runner(self) -> web.ServerRunner:
        return web.ServerRunner(web.Server(self._answer, **admin.HTTP_OPTIONS))

    async def _answer(self, _: web.BaseRequest) -> web.Response:
        return web.Response(body=b"{}", content_type="application/json")


class NoDatabase(Server):
    """Verifies, validates and answers."""

    async def apply(self, event: PaymentEvent) -> Result:
        return _applied(event)

    enqueue = apply

    async def _settle(self, _: Fact) -> str:
        return "queued"


class NoCall(Server):
    """Does everything, group commit too, but call the database."""

    def _session(self) -> Session:
        return _Silent(self.settings.required_database_url, "silent")


class PooledCall(Server):
    """One call on one of 16 connections for each request, as most services do."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._pool: asyncio.Queue[Session] = asyncio.Queue()
        for _ in range(16):
            self._pool.put_nowait(Session(settings.required_database_url, "pooled"))

    async def apply(self, event: PaymentEvent) -> Result:
        return await self._call(lambda session: _apply_waiting(session, event))

    async def enqueue(self, event: PaymentEvent) -> Result:
        return await self._call(lambda session: session.enqueue([event]))

    async def _settle(self, fact: Fact) -> str:
        if not isinstance(fact, PaymentEvent):
            return await super()._settle(fact)
        return (await self._call(lambda session: session.enqueue([fact], park=True))).outcome

    async def _call(self, call: Callable[[Session], Awaitable[list[Result]]]) -> Result:
        session = await self._pool.get()
        try:
            return (await call(session))[0]
        finally:
            self._pool.put_nowait(session)


class _Silent(Session):
    """A session whose calls succeed without a database."""

    async def apply(self, events: Sequence[PaymentEvent], *, park: bool = False) -> list[Result]:  # noqa: ARG002 - as the method is called
        await asyncio.sleep(0)
        return [_applied(event) for event in events]

    async def enqueue(self, events: Sequence[PaymentEvent], *, park: bool = False) -> list[Result]:  # noqa: ARG002 - the same
        await asyncio.sleep(0)
        return [Result(event.event_id, "queued", event.invoice_id, None) for event in events]


async def _apply_waiting(session: Session, event: PaymentEvent) -> list[Result]:
    """Waits for an invoice that is locked, where our own server comes back for it."""
    return results(await session.fetch(APPLY, *columns([event]), False, True))


def _applied(event: PaymentEvent) -> Result:
    return Result(
        event.event_id, "applied", event.invoice_id, None, "partially_paid", 10**14, "USD", 5000, 0, 0, 5000, 0
    )


KINDS = {"http": HttpAlone, "no-database": NoDatabase, "no-call": NoCall, "pooled-call": PooledCall}


async def _serve(kind: type[Server], settings: Settings, stop: asyncio.Event) -> None:
    server = kind(settings)
    runners: list[web.BaseRunner] = [
        await admin.listen(server.runner(), settings.host, settings.port, "PORT"),
        await admin.start(settings),
    ]
    await stop.wait()
    for runner in runners:
        await runner.cleanup()
    await server.close()


if __name__ == "__main__":
    uvloop.run(run_until_signalled(partial(_serve, KINDS[sys.argv[1]]), from_environment(os.environ)))
