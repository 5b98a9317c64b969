"""A small client of one provider's API: bounded in time, size and number, and never led to another host."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from pydantic import AfterValidator
from yarl import URL

from service.adapters import strict_json
from service.adapters.adapter import FetchError
from service.adapters.payload import UnusableError

TIMEOUT = 2.5
"""Seconds from the question to the whole answer, waiting for a turn included: providers want theirs in 5 to 10."""
AT_ONCE = 20
"""Questions under way to one API."""
MAX_ANSWER = 1024 * 1024
"""Bytes; a larger answer is none."""
KEEP = 900.0
"""Seconds that an answer is kept, where the caller allows it."""
MAX_KEPT = 1024
"""Answers kept."""
MAX_KEPT_ANSWER = 16 * 1024
"""Bytes; a larger answer is not kept."""


def _api_url(url: str) -> str:
    parts = urlsplit(url)
    plain = not (parts.query or parts.fragment or "@" in parts.netloc) and url.isascii() and url.isprintable()
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"})
    if not (plain and secure and parts.hostname):
        raise ValueError("expected the https URL of the provider's API, without user, query or fragment")
    return url.rstrip("/")


ApiUrl = Annotated[str, AfterValidator(_api_url)]
"""https, or http to this machine itself for tests."""


class Api:
    """Questions to one API; `headers` go with each of them.

    Every method raises FetchError where no answer can be had, UnusableError where the provider knows no such thing.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None):
        self._url = url
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"} | dict(headers or {})
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._kept: dict[str, tuple[float, Any]] = {}

    async def get(
        self,
        *path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> Any:
        """The JSON there. What never changes may be kept: a batch that comes again goes on where it left off."""
        place = self._place(path, query)
        until, value = self._kept.get(place, (0.0, None))
        if keep and time.monotonic() < until:
            return value
        body = await self._ask("GET", place, headers=headers)
        value = self._parsed(body)
        if keep and len(body) <= MAX_KEPT_ANSWER:
            self._kept.pop(place, None)
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[place] = time.monotonic() + KEEP, value
        return value

    async def get_bytes(self, *path: str) -> bytes:
        """The bytes there."""
        return await self._ask("GET", self._place(path))

    async def post_form(self, *path: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Any:
        """The JSON that answers a form."""
        return self._parsed(await self._ask("POST", self._place(path), data=form, headers=headers))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, place: str, **options: Any) -> bytes:
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._turns,
                self._opened().request(method, URL(place, encoded=True), allow_redirects=False, **options) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise FetchError(f"{self._url} answered with more than {MAX_ANSWER} bytes")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise FetchError(f"{self._url} gave no answer: {str(error) or type(error).__name__}") from None
        if answer.status in {404, 410}:
            raise UnusableError("not_found", f"the provider's API knows no {place.removeprefix(self._url)[:200]}")
        if answer.status != 200:
            raise FetchError(f"{self._url} answered {answer.status}")
        return bytes(body)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._session

    def _place(self, path: tuple[str, ...], query: Mapping[str, str] | None = None) -> str:
        if any(part in {"", ".", ".."} for part in path):
            raise UnusableError("unreadable", "an id is empty or dots")
        place = "/".join([self._url, *(quote(part, safe="") for part in path)])
        return f"{place}?{urlencode(query)}" if query else place

    def _parsed(self, body: bytes) -> Any:
        try:
            value = strict_json.parse(body)
        except strict_json.JsonError as error:
            raise FetchError(f"{self._url} answered what is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise FetchError(f"{self._url} answered what is no JSON object")
        return value
