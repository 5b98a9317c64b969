"""Who may use the console: operator tokens, sign-in, and what makes a form one of ours."""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from aiohttp import hdrs, web

from service import admin
from service.settings import OperatorToken

COOKIE = "payment_webhooks_console"
SESSION_SECONDS = 12 * 3600
SESSIONS = 1000
"""Sessions kept; one more ends the oldest."""
ATTEMPTS, WINDOW = 10, 60.0
"""Refused sign-ins that an address has in so many seconds."""
ADDRESSES = 1024
"""Addresses whose refused sign-ins are counted; one more forgets the oldest."""


Key = TypeVar("Key")
Value = TypeVar("Value")


class Operator(NamedTuple):
    """Who asks: the name goes into the record of an action, `csrf` into every form shown to them."""

    name: str
    may_act: bool
    csrf: str


class Access:
    """The sessions of this process. Without tokens `local_operator` needs none, on this machine itself."""

    def __init__(self, tokens: Sequence[OperatorToken], local_operator: str | None):
        self._tokens = tokens
        self._local = None if tokens or local_operator is None else _operator(local_operator, may_act=True)
        self._sessions: OrderedDict[bytes, tuple[Operator, float]] = OrderedDict()
        self._refused: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def by_token(self) -> bool:
        """Whether one signs in at all."""
        return bool(self._tokens)

    def operator(self, request: web.Request) -> Operator | None:
        """Whose request this is."""
        if self._local is not None:
            return self._local if admin.is_local(request) else None
        operator, expires = self._sessions.get(_key(request.cookies.get(COOKIE, "")), (None, 0.0))
        return operator if time.monotonic() < expires else None

    def wait(self, request: web.Request) -> float:
        """Seconds until this address may try to sign in again; 0 when it may now."""
        count, since = self._refused.get(_address(request), (0, 0.0))
        return max(0.0, since + WINDOW - time.monotonic()) if count >= ATTEMPTS else 0.0

    def sign_in(self, request: web.Request, token: str) -> tuple[str, str] | None:
        """Whose token it is, and a new session's cookie; None (and counted) where it is nobody's. Ask wait() first."""
        digest = _key(token)
        found = None
        for one in self._tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(one.digest, digest):
                found = one
        if found is None:
            address = _address(request)
            count, since = self._refused.pop(address, (0, 0.0))
            if time.monotonic() > since + WINDOW:
                count, since = 0, time.monotonic()
            _bounded(self._refused, ADDRESSES)[address] = (count + 1, since)
            return None
        cookie = secrets.token_urlsafe()
        session = (_operator(found.name, may_act=found.may_act), time.monotonic() + SESSION_SECONDS)
        _bounded(self._sessions, SESSIONS)[_key(cookie)] = session
        return found.name, cookie

    def sign_out(self, request: web.Request) -> None:
        """End the request's session."""
        self._sessions.pop(_key(request.cookies.get(COOKIE, "")), None)


def is_ours(request: web.Request, operator: Operator, form: Mapping[str, str]) -> bool:
    """Whether a form was sent from one of our pages, shown to this operator."""
    return is_same_origin(request) and hmac.compare_digest(form.get("csrf", "").encode(), operator.csrf.encode())


def is_same_origin(request: web.Request) -> bool:
    """Whether a browser, if it is one, sent this from a page of ours."""
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        return site == "same-origin"
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or origin.partition("://")[2] == request.headers.get(hdrs.HOST)


def _operator(name: str, *, may_act: bool) -> Operator:
    return Operator(name, may_act, secrets.token_urlsafe())


def _key(secret: str) -> bytes:
    """What stands for a secret, of one length, in tables and comparisons."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _address(request: web.Request) -> str:
    """Whom refused sign-ins count for; who has one IPv6 address has the whole /64."""
    remote = request.remote or ""
    return str(ipaddress.ip_network((remote, 64), strict=False)) if ":" in remote and "%" not in remote else remote


def _bounded(table: OrderedDict[Key, Value], most: int) -> OrderedDict[Key, Value]:
    """The table with room for one more."""
    while len(table) >= most:
        table.popitem(last=False)
    return table
