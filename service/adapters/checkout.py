"""Checkout.com: https://www.checkout.com/docs/developer-resources/event-notifications and its event types.

A payment may be captured in parts: each capture is an action of its own, and what follows names the payment alone. So a
capture also links the payment to its invoice, and a refund or dispute looks there: its own reference may be another.
"""

from collections.abc import Iterable
from typing import ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import Link, PaymentEvent

EXPONENTS = {"CLP": 2}
"""Where Checkout.com's decimals differ from ISO 4217 (https://www.checkout.com/docs/resources/calculating-the-amount)."""
MOVEMENTS = {
    "payment_captured": "payment",
    "payment_refunded": "refund",
    "payment_returned": "chargeback",
    "dispute_evidence_required": "chargeback",
    "dispute_accepted": "chargeback",
    "dispute_expired": "chargeback",
    "dispute_lost": "chargeback",
    "dispute_arbitration_lost": "chargeback",
    "dispute_resolved": "chargeback",
    "dispute_won": "chargeback_reversal",
    "dispute_canceled": "chargeback_reversal",
    "dispute_arbitration_won": "chargeback_reversal",
}
"""A dispute's amount is debited when it is received; all events of the dispute carry its id, which is posted once."""


class Checkout(HmacAdapter):
    """`webhook_secrets` are the signature keys of the webhook."""

    scheme: ClassVar = HmacScheme("Cko-Signature")
    invoice: Pointers = ("/data/metadata/invoice_id", "/data/reference")

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        host = "api.checkout.com" if self.mode == "live" else "api.sandbox.checkout.com"
        data = {"action_id": f"act_sample_{invoice}", "amount": amount, "currency": currency}
        return as_json(self.naming(invoice, {
            "id": f"evt_sample_{invoice}", "type": "payment_captured",
            "data": data | {"processing_channel_id": self.account},
            "_links": {"self": {"href": f"https://{host}/workflows/events/evt_sample_{invoice}"}},
        }))  # fmt: skip

    def translate(self, item: Payload) -> Iterable[PaymentEvent | Link]:
        name, data = item.text("/type"), item.part("/data")
        kind = MOVEMENTS.get(name)
        payout_returned = name == "payment_returned" and data.get("/destination") is not None
        refunded_before = name == "dispute_resolved" and data.get("/resolved_reason") != "rapid_dispute_resolution"
        if kind is None or payout_returned or refunded_before:
            return
        address = item.get("/_links/self/href")
        if isinstance(address, str):
            self.require_mode(live=".sandbox.checkout.com" not in address)
        self.require_account(data.get("/processing_channel_id"))
        of_dispute = name.startswith("dispute_")
        reference = data.text("/id" if of_dispute else "/action_id")
        got = money.from_minor(data.get("/amount"), data.get("/currency"), EXPONENTS)
        parent = None if kind == "payment" else data.text("/payment_id" if of_dispute else "/id")
        time = "/timestamp" if item.get("/created_on") is None else "/created_on"
        invoice = None if parent is None else (None, parent)
        yield self.event(item, item.text("/id"), kind, got, reference, parent=parent, invoice=invoice, time=time)
        if kind == "payment":
            yield from self.links(item, data.get("/id"))
