"""Paddle Billing: https://developer.paddle.com/webhooks/overview and https://developer.paddle.com/api-reference/adjustments.

transaction.completed alone posts a payment. Refunds and chargebacks are adjustments, and count once they are approved.
A reversed chargeback is told twice, by its own status and by an adjustment that does not name it; a transaction has
one chargeback at a time, so that its reference is made from the transaction, and both reports meet.
"""

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent

SCHEME = HmacScheme(
    "Paddle-Signature", separator=";", timestamp_prefix="ts=", prefix="h1=", signed="{timestamp}:{body}"
)


class Paddle(HmacAdapter):
    """`webhook_secrets` are the secret keys (pdl_ntfset_…) of the notification destination."""

    tells_account: ClassVar = False

    tolerance: int = Field(default=5, ge=1, le=300)
    """Seconds that a timestamp may be off, either way; 5 is Paddle's advice."""
    invoice: Pointers = ("/data/custom_data/invoice_id",)

    @property
    def scheme(self) -> HmacScheme:
        return SCHEME._replace(tolerance=self.tolerance)

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        totals = {"grand_total": str(amount), "currency_code": currency}
        transaction = {"id": f"txn_sample_{invoice}", "status": "completed", "details": {"totals": totals}}
        return as_json(self.naming(invoice, {
            "event_id": f"evt_sample_{invoice}", "event_type": "transaction.completed",
            "data": transaction | {"currency_code": currency},
        }))  # fmt: skip

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        match item.text("/event_type"):
            case "transaction.completed":
                return self._payment(item, item.part("/data"))
            case "adjustment.created" | "adjustment.updated":
                return self._adjustment(item, item.part("/data"))
        return ()

    def _payment(self, item: Payload, transaction: Payload) -> Iterable[PaymentEvent]:
        total = transaction.get("/details/totals/grand_total")
        if not money.is_zero(total):  # a trial, or paid from credit
            got = money.from_minor_text(total, transaction.get("/currency_code"))
            yield self.event(item, item.text("/event_id"), "payment", got, transaction.text("/id"), time="/occurred_at")

    def _adjustment(self, item: Payload, adjustment: Payload) -> Iterable[PaymentEvent]:
        paid = adjustment.text("/transaction_id")
        match adjustment.text("/action"), adjustment.text("/status"):
            case "refund", "approved":
                kind, reference = "refund", adjustment.text("/id")
            case "refund", "reversed":
                kind, reference = "refund_reversal", adjustment.text("/id")
            case "chargeback", "approved":
                kind, reference = "chargeback", f"{paid}/chargeback"
            case ("chargeback", "reversed") | ("chargeback_reverse", "approved"):
                kind, reference = "chargeback_reversal", f"{paid}/chargeback"
            case ("chargeback_warning" | "chargeback_warning_reverse") as action, "approved" | "reversed":
                raise UnusableError(action, f"look in Paddle whether {paid} was refunded ahead of a chargeback")
            case _:  # not decided, rejected, or a credit, which moves no money
                return
        got = money.from_minor_text(adjustment.get("/totals/total"), adjustment.get("/currency_code"))
        yield self.event(item, item.text("/event_id"), kind, got, reference, parent=paid, time="/occurred_at")
