"""What the processes share: they run until a signal ends them."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from service import log
from service.environment import SettingsError
from service.settings import Settings, from_environment


async def run_until_signalled(run: Callable[[Settings, asyncio.Event], Awaitable[None]], settings: Settings) -> None:
    """Run a process's main coroutine; SIGINT and SIGTERM set its stop event."""
    allow_open_files()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop)


def allow_open_files() -> None:
    """As many as we may open: the usual 1,024 are few for a server whose clients leave connections idle."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit still
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(main: Callable[[Settings, asyncio.Event], Awaitable[None]], **defaults: Any) -> None:
    """Run a process with the settings of the environment, `defaults` its own; a bad one ends it with its message."""
    try:
        settings = from_environment(os.environ, **defaults)
        log.configure(settings.log_format)
        uvloop.run(run_until_signalled(main, settings))
    except SettingsError as error:
        sys.exit(str(error))
