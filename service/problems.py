"""Errors over HTTP: RFC 9457 problem details."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiohttp import web

TYPE_PREFIX = "urn:payment-webhooks:problem:"


class FieldError(NamedTuple):
    """What is wrong at one place of the request's body; `pointer` is a JSON pointer (RFC 6901) as a URI fragment."""

    pointer: str
    detail: str


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """A request is answered with a problem; `detail` says what to do. Raised anywhere on the way to the answer."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def response(self) -> web.Response:
        """The answer as `application/problem+json`."""
        body: dict[str, object] = {
            "type": TYPE_PREFIX + self.name,
            "title": self.name.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [error._asdict() for error in self.errors]
        return web.Response(
            status=self.status,
            body=json.dumps(body).encode(),
            content_type="application/problem+json",
            headers=self.headers,
        )


def unavailable(detail: str) -> Problem:
    """503: nothing is lost by sending the request again, and that is what the sender should do."""
    return Problem(503, "unavailable", detail, headers={"Retry-After": "1"})
