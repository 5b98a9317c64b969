"""One look at the status for everybody who watches: by NOTIFY, by the poll where none comes, and never in a hurry."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from service.database import RejectedError, UnavailableError
from service.operations import OVERDUE_POLLS, LookSession

POLL = 2.0
"""Seconds between two looks when nothing is heard, at most."""
SPACING = 0.5
"""Seconds between two looks, at least."""
SETTLING = 0.05
"""Seconds from a NOTIFY to the look: the listener that it woke needs a few milliseconds."""
SHARE = 10
"""A look that took long is repeated after so many times as long."""


class Watcher:
    """The status and the newest events, as of the last look, and a stream of what `render` makes of them.

    While nobody watches it asks nothing. `poll_interval` is in seconds.
    """

    def __init__(self, url: str, poll_interval: float, render: Callable[[dict[str, Any]], bytes]):
        self._heard = asyncio.Event()
        self._session = LookSession(url, "payment_webhooks console watcher", self._heard.set)
        self._poll = min(poll_interval, POLL)
        self._patience = timedelta(seconds=OVERDUE_POLLS * poll_interval)
        self._render = render
        self._lock = asyncio.Lock()
        self._last: dict[str, Any] = {}
        self._next_look = -math.inf
        self._watching = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes | None] | None = None

    async def status(self) -> dict[str, Any]:
        """OperatorSession.status(), the `newest` events, and whether one is `late`; or `error`, why there is none."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if (started := clock()) >= self._next_look:
                try:
                    self._last = await self._session.status() | {"error": None}
                    self._last["newest"] = await self._session.newest_events()
                    self._last["late"] = self._last["longest_overdue"] > self._patience
                except (UnavailableError, RejectedError) as error:
                    self._last = {"error": str(error)}
                self._next_look = clock() + max(SPACING, SHARE * (clock() - started))
            return self._last

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While inside, somebody watches."""
        self._watching += 1
        if (self._task is None or self._task.done()) and not self._closed:
            self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._watching -= 1

    async def next(self) -> bytes | None:
        """What is rendered next, the same bytes for everybody; None once closed. Who comes late misses some."""
        if self._closed:
            return None
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """End every stream and leave the database."""
        self._closed = True
        self._publish(None)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._session.close()

    def _publish(self, data: bytes | None) -> None:
        if self._next is not None:
            self._next.set_result(data)
            self._next = None

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while self._watching:
            started = clock()
            self._heard.clear()
            self._publish(self._render(await self.status()))
            await asyncio.sleep(self._next_look - clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(started + self._poll):
                    await self._heard.wait()
                    await asyncio.sleep(SETTLING)
        self._task = None
        async with self._lock:
            await self._session.close()
