"""Errors over HTTP: RFC 9457 problem details."""

from collections.abc import Mapping, Sequence

from aiohttp import web
from pydantic import BaseModel, Field

TYPE_PREFIX = "urn:payment-webhooks:problem:"


class FieldError(BaseModel):
    """What is wrong at one place of the request's body."""

    pointer: str = Field(description="A JSON pointer (RFC 6901) as a URI fragment.")
    detail: str


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="Identifies the kind of problem.")
    title: str
    status: int
    detail: str = Field(description="What to do.")
    errors: Sequence[FieldError] = Field(default=(), description="Every bad field.")


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
        body = ProblemDetails(
            type=TYPE_PREFIX + self.name,
            title=self.name.replace("-", " ").capitalize(),
            status=self.status,
            detail=self.detail,
            errors=self.errors,
        )
        return web.Response(
            status=self.status,
            body=body.model_dump_json(exclude_defaults=True).encode() + b"\n",
            content_type="application/problem+json",
            headers=self.headers,
        )


def unavailable(detail: str) -> Problem:
    """503: nothing is lost by sending the request again, and that is what the sender should do."""
    return Problem(503, "unavailable", detail, headers={"Retry-After": "1"})
