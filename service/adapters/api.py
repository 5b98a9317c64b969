"""A small client of one provider's API: bounded in time, size and number, and never led to another host."""

import asyncio
import base64
import time
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from pydantic import AfterValidator
from yarl import URL

from service.adapters.adapter import Adapter, FetchError
from service.adapters.payload import Payload, UnusableError

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

    async def get(self, *path: str, query: Mapping[str, str] | None = None, keep: bool = False) -> Any:
        """The JSON there. What never changes may be kept: a batch that comes again goes on where it left off."""
        place = self._place(path, query)
        until, value = self._kept.get(place, (0.0, None))
        if keep and time.monotonic() < until:
            return value
        body = await self._ask("GET", place)
        value = self._parsed(body)
        if keep and len(body) <= MAX_KEPT_ANSWER:
            self._kept.pop(place, None)
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[place] = time.monotonic() + KEEP, value
        return value

    async def resource(
        self, *path: str, within: str = "", query: Mapping[str, str] | None = None, keep: bool = False
    ) -> dict[str, Any]:
        """As get(), of the resource whose id ends the path; `within` is the answer's part that holds it."""
        answer = await self.get(*path, query=query, keep=keep)
        resource = answer.get(within) if within else answer
        if not isinstance(resource, dict) or resource.get("id") != path[-1]:
            raise FetchError(f"{self._url} answered what is not about {path[-1]}")
        return resource

    async def get_bytes(self, *path: str) -> bytes:
        """The bytes there."""
        return await self._ask("GET", self._place(path))

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

    def _parsed(self, body: bytes) -> dict[str, Any]:
        try:
            value: dict[str, Any] = Payload.of_json(body).value
        except UnusableError as error:
            raise FetchError(f"{self._url} answered what is no JSON object: {error}") from None
        return value


class OAuthApi(Api):
    """An API that gives a client an access token for its id and secret (RFC 6749, section 4.4)."""

    def __init__(self, url: str, token_path: tuple[str, ...], client_id: str, client_secret: str):
        super().__init__(url)
        self._token_path = token_path
        self._login = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._token = ("", 0.0)

    async def _ask(self, method: str, place: str, **options: Any) -> bytes:
        if time.monotonic() >= self._token[1]:
            self._token = await self._new_token()
        try:
            return await super()._ask(method, place, headers={"Authorization": f"Bearer {self._token[0]}"}, **options)
        except FetchError:
            self._token = ("", 0.0)
            raise

    async def _new_token(self) -> tuple[str, float]:
        """An access token, and until when it serves. Raises FetchError."""
        form, headers = {"grant_type": "client_credentials"}, {"Authorization": f"Basic {self._login}"}
        try:
            answer = self._parsed(await super()._ask("POST", self._place(self._token_path), data=form, headers=headers))
        except UnusableError as error:
            raise FetchError(str(error)) from None
        token, seconds = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or type(seconds) is not int:
            raise FetchError(f"{self._url} gave no access token")
        return token, time.monotonic() + min(seconds, 86_400) - 60


class FetchingAdapter(Adapter):
    """An adapter that asks the provider's API what a webhook is about."""

    @cached_property
    @abstractmethod
    def api(self) -> Api:
        """The provider's API, asked for our account."""

    async def close(self) -> None:
        await self.api.close()
