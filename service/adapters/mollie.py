"""Mollie: https://docs.mollie.com/reference/webhooks-new and https://docs.mollie.com/reference/webhooks.

A webhook only says which payment to look at. The payment is fetched with its refunds and chargebacks, and each of those
that has moved money is reported, every time: what was reported before is a duplicate.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from service.adapters import money
from service.adapters.adapter import Delivery, Pointers, Secret, Secrets, as_json
from service.adapters.api import Api, ApiUrl, FetchingAdapter
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import HmacAdapter, HmacScheme, is_any_of
from service.database import PaymentEvent

_CLASSIC = re.compile(rb"id=([a-z]{2,10}_[A-Za-z0-9]{1,64})")


class Mollie(HmacAdapter, FetchingAdapter):
    """`webhook_secrets` are the signing secrets of the webhook; `api_key` (live_… or test_…) reads the payments.

    Classic webhooks, a payment's `webhookUrl`, are not signed: `classic = true` takes these, and no secrets.
    """

    webhook_secrets: Secrets = ()
    classic: Annotated[bool, Field(validate_default=True)] = False
    api_key: Annotated[Secret, Field(repr=False)]
    api_url: ApiUrl = "https://api.mollie.com"
    invoice: Pointers = ("/metadata/invoice_id",)
    """Within the payment."""

    scheme: ClassVar = HmacScheme("X-Mollie-Signature", prefix="sha256=")

    @field_validator("classic")
    @classmethod
    def _either(cls, classic: bool, info: ValidationInfo) -> bool:
        if classic == bool(info.data.get("webhook_secrets", not classic)):
            raise ValueError("set webhook_secrets for signed webhooks, or else classic = true for unsigned ones")
        return classic

    @cached_property
    def api(self) -> Api:
        return Api(self.api_url, {"Authorization": f"Bearer {self.api_key}"})

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

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:  # noqa: ARG002 - a webhook holds no money
        if self.classic:
            return f"id=tr_sample{invoice}".encode()
        return as_json({"id": f"event_sample{invoice}", "type": "payment.paid", "entityId": f"tr_sample{invoice}"})

    def items(self, body: bytes) -> Iterable[Payload]:
        if not self.classic:
            return super().items(body)
        if (match := _CLASSIC.fullmatch(body)) is None:
            raise UnusableError("unreadable", "the body is not one id of Mollie's")
        kind = "payment." if match[1].startswith(b"tr_") else "other"
        return [Payload({"type": kind, "entityId": match[1].decode()})]

    async def complete(self, item: Payload) -> Payload:
        """The payments that the webhook is about, with their refunds and chargebacks."""
        query = {"embed": "refunds,chargebacks"}
        try:
            names = await self._payments_of(item)
            payments = await asyncio.gather(*(self.api.resource("v2", "payments", name, query=query) for name in names))
        except UnusableError as error:
            if self.classic and error.reason == "not_found":  # anyone may ask; nothing is kept of it
                return Payload({"payments": []})
            raise
        return Payload({"payments": payments})

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        for payment in item.parts("/payments"):
            yield from self._moves(payment)

    def _moves(self, payment: Payload) -> Iterable[PaymentEvent]:
        self.require_mode(live=payment.text("/mode") == "live")
        self.require_account(payment.get("/profileId"))
        if payment.text("/status") == "paid":
            yield self._move(payment, payment, "payment", "paid", "/paidAt")
        for refund in _embedded(payment, "refunds"):
            if (status := refund.text("/status")) in {"refunded", "failed"}:
                yield self._move(payment, refund, "refund" if status == "refunded" else "refund_reversal", status)
        for chargeback in _embedded(payment, "chargebacks"):
            yield self._move(payment, chargeback, "chargeback", "charged_back")
            if chargeback.get("/reversedAt") is not None:
                yield self._move(payment, chargeback, "chargeback_reversal", "reversed", "/reversedAt")

    def _move(self, payment: Payload, moved: Payload, kind: str, status: str, time: str = "/createdAt") -> PaymentEvent:
        amount = moved.part("/amountCaptured" if moved.get("/amountCaptured") else "/amount")
        got = money.from_decimal(amount.get("/value"), amount.get("/currency"))
        event_id, reference = f"{moved.text('/id')}:{status}", moved.text("/id")
        parent, invoice = None if moved is payment else payment.text("/id"), self.invoice_named(payment)
        return self.event(moved, event_id, kind, got, reference, parent=parent, invoice=invoice, time=time)

    async def _payments_of(self, item: Payload) -> list[str]:
        match item.text("/type").partition(".")[0]:
            case "payment":
                return [item.text("/entityId")]
            case "refund" | "chargeback":
                return [item.text("/_embedded/entity/paymentId")]
            case "payment-link":
                answer = Payload(await self.api.get("v2", "payment-links", item.text("/entityId"), "payments"))
                return [payment.text("/id") for payment in _embedded(answer, "payments")]
        return []


def _embedded(payload: Payload, name: str) -> Iterable[Payload]:
    return payload.parts(f"/_embedded/{name}") if payload.get(f"/_embedded/{name}") is not None else ()
