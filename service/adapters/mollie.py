"""Mollie: https://docs.mollie.com/reference/webhooks-new and https://docs.mollie.com/reference/webhooks.

A webhook only says which payment to look at. The payment is fetched with its refunds and chargebacks, and each of those
that has moved money is reported, every time: what was reported before is a duplicate.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from service.adapters import money
from service.adapters.adapter import Pointers, Secret, as_json
from service.adapters.api import Api, ApiUrl, FetchingAdapter
from service.adapters.mollie_signature import SignedOrClassic, classic_id
from service.adapters.payload import Payload, UnusableError
from service.database import PaymentEvent


class Mollie(SignedOrClassic, FetchingAdapter):
    """`api_key` (live_… or test_…) reads the payments."""

    api_key: Annotated[Secret, Field(repr=False)]
    api_url: ApiUrl = "https://api.mollie.com"
    invoice: Pointers = ("/metadata/invoice_id",)
    """Within the payment."""

    @cached_property
    def api(self) -> Api:
        return Api(self.api_url, {"Authorization": f"Bearer {self.api_key}"})

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:  # noqa: ARG002 - a webhook holds no money
        if self.classic:
            return f"id=tr_sample{invoice}".encode()
        return as_json({"id": f"event_sample{invoice}", "type": "payment.paid", "entityId": f"tr_sample{invoice}"})

    def items(self, body: bytes) -> Iterable[Payload]:
        if not self.classic:
            return super().items(body)
        name = classic_id(body)
        return [Payload({"type": "payment" if name.startswith("tr_") else "other", "entityId": name})]

    async def complete(self, item: Payload) -> Payload:
        """The payments that the webhook is about: a link's newest 250, or one with its refunds and chargebacks."""
        try:
            match item.text("/type").partition(".")[0]:
                case "payment":
                    payments = [await self._payment(item.text("/entityId"))]
                case "refund" | "chargeback" | "capture":
                    payments = [await self._payment(item.text("/_embedded/entity/paymentId"))]
                case "payment-link":
                    path, query = ("v2", "payment-links", item.text("/entityId"), "payments"), {"limit": "250"}
                    payments = Payload(await self.api.get(*path, query=query)).get("/_embedded/payments") or []
                case _:
                    payments = []
        except UnusableError as error:
            if not self.classic or error.reason != "not_found":
                raise
            payments = []  # anyone may ask; nothing is kept of it
        return Payload({"payments": payments})

    async def _payment(self, name: str) -> dict[str, Any]:
        return await self.api.resource("v2", "payments", name, query={"embed": "refunds,chargebacks"})

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        errors = []
        for payment in item.parts("/payments"):
            try:
                yield from self._moves(payment)
            except UnusableError as error:  # the other payments of a link are none the worse
                errors.append(error)
        if errors:
            raise errors[0]

    def _moves(self, payment: Payload) -> Iterable[PaymentEvent]:
        self.require_mode(live=payment.text("/mode") == "live")
        self.require_account(payment.get("/profileId"))
        if payment.text("/status") == "paid" and not money.is_zero(payment.get("/amount/value")):
            yield self._move(payment, payment, "payment", "paid", "/paidAt")
        for refund in payment.optional_parts("/_embedded/refunds"):
            if (status := refund.text("/status")) in {"refunded", "failed"}:
                yield self._move(payment, refund, "refund" if status == "refunded" else "refund_reversal", status)
        for chargeback in payment.optional_parts("/_embedded/chargebacks"):
            yield self._move(payment, chargeback, "chargeback", "charged_back")
            if chargeback.get("/reversedAt") is not None:
                yield self._move(payment, chargeback, "chargeback_reversal", "reversed", "/reversedAt")

    def _move(self, payment: Payload, moved: Payload, kind: str, status: str, time: str = "/createdAt") -> PaymentEvent:
        amount = moved.part("/amountCaptured" if moved.get("/amountCaptured") else "/amount")
        got = money.from_decimal(amount.get("/value"), amount.get("/currency"))
        event_id, reference = f"{moved.text('/id')}:{status}", moved.text("/id")
        parent, invoice = None if moved is payment else payment.text("/id"), self.invoice_named(payment)
        return self.event(moved, event_id, kind, got, reference, parent=parent, invoice=invoice, time=time)
