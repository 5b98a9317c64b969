"""Razorpay: https://razorpay.com/docs/webhooks/ and https://razorpay.com/docs/api/disputes/entity/.

payment.captured alone posts a payment; order.paid and payment_link.paid only say whose it is. A dispute that took no
money, as most do until they are lost, has amount_deducted 0. The event's id comes in a header that nothing signs, so
ids are made from the body.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import Link, PaymentEvent


class Razorpay(HmacAdapter):
    """`webhook_secrets` are the secrets entered for the webhook; retries of older events keep the secret of their time.

    `account` is the account_id (acc_…).
    """

    scheme: ClassVar = HmacScheme("X-Razorpay-Signature")
    invoice: Pointers = (
        "/payload/payment/entity/notes/invoice_id",
        "/payload/order/entity/notes/invoice_id",
        "/payload/payment_link/entity/notes/invoice_id",
        "/payload/order/entity/receipt",
    )

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        payment = {"id": f"pay_sample_{invoice}", "amount": amount, "currency": currency, "status": "captured"}
        return as_json(self.naming(invoice, {
            "entity": "event", "event": "payment.captured", "account_id": self.account,
            "payload": {"payment": {"entity": payment}},
        }))  # fmt: skip

    def translate(self, item: Payload) -> Iterable[PaymentEvent | Link]:
        report = self._reports.get(item.text("/event"))
        if report is None:
            return ()
        self.require_account(item.get("/account_id"))
        return report(self, item)

    def _payment(self, item: Payload) -> Iterable[PaymentEvent]:
        yield self._moved(item, "payment", item.part("/payload/payment/entity"), "amount")

    def _refund(self, item: Payload) -> Iterable[PaymentEvent]:
        if item.get("/payload/payment/entity/captured") is not False:  # else it returns what never was a payment
            yield self._moved(item, "refund", item.part("/payload/refund/entity"), "amount")

    def _taken(self, item: Payload) -> Iterable[PaymentEvent]:
        yield from self._dispute(item, "chargeback")

    def _given_back(self, item: Payload) -> Iterable[PaymentEvent]:
        yield from self._dispute(item, "chargeback_reversal")

    def _dispute(self, item: Payload, kind: str) -> Iterable[PaymentEvent]:
        dispute = item.part("/payload/dispute/entity")
        if not money.is_zero(dispute.get("/amount_deducted")):
            yield self._moved(item, kind, dispute, "amount_deducted")

    def _moved(self, item: Payload, kind: str, entity: Payload, amount: str) -> PaymentEvent:
        reference = entity.text("/id")
        got = money.from_minor(entity.get(f"/{amount}"), entity.get("/currency"))
        parent = None if kind == "payment" else entity.text("/payment_id")
        event_id = f"{reference}:{item.text('/event')}:{entity.text('/status')}"
        return self.event(item, event_id, kind, got, reference, parent=parent, time="/created_at")

    def _paid(self, item: Payload) -> Iterable[Link]:
        return self.links(item, item.get("/payload/payment/entity/id"))

    _reports: ClassVar[dict[str, Callable[..., Iterable[PaymentEvent | Link]]]] = {
        "payment.captured": _payment,
        "refund.processed": _refund,
        "payment.dispute.created": _taken,
        "payment.dispute.lost": _taken,
        "payment.dispute.won": _given_back,
        **dict.fromkeys(("order.paid", "payment_link.paid", "payment_link.partially_paid"), _paid),
    }
