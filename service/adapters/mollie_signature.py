"""Mollie's two kinds of webhooks: signed ones, and classic ones, which anyone may send and the API has to confirm."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from service.adapters.adapter import Delivery, Secrets
from service.adapters.payload import UnusableError
from service.adapters.signatures import HmacAdapter, HmacScheme, is_any_of

_CLASSIC = re.compile(rb"id=([a-z]{2,10}_[A-Za-z0-9]{1,64})")


class SignedOrClassic(HmacAdapter):
    """`webhook_secrets` are the signing secrets of the webhook.

    Classic webhooks, a payment's `webhookUrl`, are not signed: `classic = true` takes these, and no secrets.
    """

    webhook_secrets: Secrets = ()
    classic: Annotated[bool, Field(validate_default=True)] = False

    scheme: ClassVar = HmacScheme("X-Mollie-Signature", prefix="sha256=")

    @field_validator("classic")
    @classmethod
    def _either(cls, classic: bool, info: ValidationInfo) -> bool:
        if classic == bool(info.data.get("webhook_secrets", not classic)):
            raise ValueError("set webhook_secrets for signed webhooks, or else classic = true for unsigned ones")
        return classic

    @property
    def forgeable(self) -> bool:
        return self.classic

    async def is_authentic(self, delivery: Delivery) -> bool:
        """While one secret replaces another, Mollie may sign with both; each signature that is there has to be good."""
        if self.classic:  # a well-formed question; what counts is the API's answer
            return _CLASSIC.fullmatch(delivery.body) is not None
        lines = delivery.headers.getall(self.scheme.header, ())
        given = [part.strip() for line in lines for part in line.split(",", 2)]
        expected = [self.scheme.signature(key, delivery.body) for key in self.keys]
        return 0 < len(given) == len(set(given)) <= 2 and all(is_any_of((one,), expected) for one in given)

    def sign(self, body: bytes, now: float) -> Mapping[str, str]:
        return {} if self.classic else super().sign(body, now)


def classic_id(body: bytes) -> str:
    """The id in a classic webhook. Raises UnusableError."""
    if (match := _CLASSIC.fullmatch(body)) is None:
        raise UnusableError("unreadable", "the body is not one id of Mollie's")
    return match[1].decode()
