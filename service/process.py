"""What the processes share: they run until a signal ends them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from service.settings import Settings


async def run_until_signalled(run: Callable[[Settings, asyncio.Event], Awaitable[None]], settings: Settings) -> None:
    """Run a process's main coroutine; SIGINT and SIGTERM set its stop event."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop)
