"""Square: https://developer.squareup.com/docs/webhooks/overview and https://developer.squareup.com/reference/square/webhooks.

Each event carries its object as it is now. A payment is money once it is COMPLETED, whichever event says so first; what
comes later about the same payment, refund or dispute carries its id again, and is posted once.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent

DISPUTES = {
    "EVIDENCE_REQUIRED": "chargeback",
    "PROCESSING": "chargeback",
    "ACCEPTED": "chargeback",
    "LOST": "chargeback",
    "WON": "chargeback_reversal",
}
"""What became of the money in each state; an inquiry (INQUIRY_…) has not moved any."""


class Square(HmacAdapter):
    """`webhook_secrets` are the signature keys of the webhook subscription."""

    notification_url: Annotated[str, Field(pattern="^https?://[!-z~]+$")]
    """The subscription's URL exactly as Square knows it. It is signed before the body; no request is asked for it."""
    invoice: Pointers = ("/data/object/payment/reference_id",)

    @property
    def scheme(self) -> HmacScheme:
        return HmacScheme("x-square-hmacsha256-signature", encoding="base64", signed=f"{self.notification_url}{{body}}")

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        payment = {"id": f"sample-{invoice}", "status": "COMPLETED"}
        return as_json(self.naming(invoice, {
            "merchant_id": self.account, "type": "payment.updated", "event_id": f"sample-event-{invoice}",
            "data": {"object": {"payment": payment | {"total_money": {"amount": amount, "currency": currency}}}},
        }))  # fmt: skip

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        match item.text("/type"):
            case "payment.created" | "payment.updated":
                payment = item.part("/data/object/payment")
                # the total is with the tip
                paid = "/amount_money" if payment.get("/total_money") is None else "/total_money"
                if payment.text("/status") == "COMPLETED" and not money.is_zero(payment.get(f"{paid}/amount")):
                    yield self._movement(item, "payment", payment, paid)
            case "refund.created" | "refund.updated":
                refund = item.part("/data/object/refund")
                if refund.text("/status") == "COMPLETED":
                    parent = refund.optional_text("/payment_id")
                    yield self._movement(item, "refund", refund, "/amount_money", parent)
            case "dispute.created" | "dispute.state.updated" | "dispute.state.changed":
                dispute = item.part("/data/object/dispute")
                if kind := DISPUTES.get(dispute.text("/state")):
                    parent = dispute.optional_text("/disputed_payment/payment_id")
                    yield self._movement(item, kind, dispute, "/amount_money", parent)

    def _movement(self, item: Payload, kind: str, thing: Payload, at: str, parent: str | None = None) -> PaymentEvent:
        self.require_account(item.get("/merchant_id"))
        got = money.from_minor(thing.get(f"{at}/amount"), thing.get(f"{at}/currency"))
        reference = thing.optional_text("/id") or thing.text("/dispute_id")
        return self.event(item, item.text("/event_id"), kind, got, reference, parent=parent, time="/created_at")
