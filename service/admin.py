"""What operators and their tools look at, on ADMIN_PORT: `/metrics`, and the pages that each process adds."""

import asyncio
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import prometheus_client
from aiohttp import hdrs, web

from service.environment import SettingsError
from service.settings import Settings

READY_TIMEOUT = 2.0
"""Seconds that /readyz waits for the database."""
SHUTDOWN_TIMEOUT = 2.0
"""Seconds that a request here may keep a process from ending."""
HTTP_OPTIONS: dict[str, Any] = {"access_log": None, "auto_decompress": False, "keepalive_timeout": 10}
"""Limits of HTTP/1.1 are those that aiohttp checks. A connection that brings no whole request for 10 s is closed."""
FORWARDING_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Runner = TypeVar("Runner", bound=web.BaseRunner)


def health(unready: Callable[[], Awaitable[str | None]]) -> tuple[Handler, Handler]:
    """`/livez`: the process answers. `/readyz`: `unready` finds no reason why it could not work, else 503 with it."""

    async def livez(_: web.BaseRequest) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.BaseRequest) -> web.Response:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                reason = await unready()
        except TimeoutError:
            reason = f"the database did not answer within {READY_TIMEOUT:g} s"
        if reason is not None:
            return web.json_response({"status": "not ready", "reason": reason}, status=503)
        return web.json_response({"status": "ready"})

    return livez, readyz


def health_routes(unready: Callable[[], Awaitable[str | None]]) -> list[web.RouteDef]:
    """health() for an application."""
    livez, readyz = health(unready)
    return [web.get("/livez", livez), web.get("/readyz", readyz)]


async def start(settings: Settings, routes: Iterable[web.RouteDef] = ()) -> web.AppRunner:
    """Serve `/metrics` and `routes` on ADMIN_HOST and ADMIN_PORT until the runner's cleanup().

    Raises SettingsError when the port cannot be had.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=prometheus_client.generate_latest(),
            headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST},
        )

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), *routes])
    runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_TIMEOUT, **HTTP_OPTIONS)
    return await listen(runner, settings.admin_host, settings.admin_port, "ADMIN_PORT")


async def listen(runner: Runner, host: str, port: int, setting: str, *, shared: bool = False) -> Runner:
    """Serve what `runner` runs, until its cleanup(); with `shared` other processes may listen on the same port.

    Raises SettingsError, naming `setting`, when the port cannot be had.
    """
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_port=shared, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"{setting}: cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}). Set another."
        ) from None
    return runner


def is_local(request: web.BaseRequest) -> bool:
    """Whether a request comes from this machine itself, under a name of it, and not through a proxy."""
    host = re.sub(r":[0-9]*$", "", request.headers.get(hdrs.HOST, "")).strip("[]")
    return (
        (host == "localhost" or _is_loopback(host))
        and _is_loopback(request.remote or "")
        and not any(name in request.headers for name in FORWARDING_HEADERS)
    )


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
