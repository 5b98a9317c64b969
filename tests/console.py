"""The console for a test, in its own loop, over a login of the operator role; and a browser without scripts."""

import contextlib
import html
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from service import admin
from service.console.pages import Console
from service.settings import Settings, from_environment
from tests.conftest import Connection

ALICE, BOB = "a" * 32, "b" * 32
TOKENS = f"alice:{ALICE},bob:{BOB}:read"


class Browser:
    """Keeps cookies, follows no redirect, sends what a person would: the fields of the form on a page."""

    def __init__(self, url: str, session: aiohttp.ClientSession):
        self.url = url
        self.session = session
        self.headers: Any = {}

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, headers=headers, allow_redirects=False) as response:
            self.headers = response.headers
            return response.status, await response.text()

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> tuple[int, str]:
        async with self.session.post(
            self.url + path, data=fields, headers={"Origin": self.url} | headers, allow_redirects=False
        ) as response:
            self.headers = response.headers
            return response.status, await response.text()

    async def sign_in(self, token: str = ALICE, **headers: str) -> int:
        status, _ = await self.post("/console/sign-in", {"token": token, "next": "/console"}, **headers)
        return status

    async def csrf(self, path: str = "/console") -> str:
        """The token of the forms that this session is shown."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(path))[1])
        assert found is not None
        return found[1]

    async def act(self, path: str, **fields: str) -> tuple[int, str]:
        return await self.post(path, fields | {"csrf": await self.csrf()})


def text_of(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


async def operator_url(database_url: str, db: Connection) -> str:
    role = await db.fetchval("select role_name('operator')")
    return f"{database_url}&options=-crole%3D{role}"


def settings(url: str, tokens: str | None = TOKENS, **values: str) -> Settings:
    environment = {"DATABASE_URL": url, "ADMIN_PORT": "0"} | values
    return from_environment(environment | ({} if tokens is None else {"OPERATOR_TOKENS": tokens}))


@contextlib.asynccontextmanager
async def opened(
    url: str, tokens: str | None = TOKENS, local_operator: str | None = None, **environment: str
) -> AsyncIterator[Browser]:
    values = settings(url, tokens, **environment)
    console = Console(values, local_operator)
    runner = await admin.start(values, console.routes())
    try:
        async with browser(f"http://127.0.0.1:{runner.addresses[0][1]}") as one:
            yield one
    finally:
        await console.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def browser(url: str, address: str = "127.0.0.1") -> AsyncIterator[Browser]:
    """Another browser, at an address of this machine."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Browser(url, session)
