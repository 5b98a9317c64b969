"""Shopify: https://shopify.dev/docs/api/webhooks/latest and https://shopify.dev/docs/apps/build/webhooks.

No signature covers the headers that say which topic and which event a webhook is. What it is, its own shape tells, and
its id is made of what it is about; so orders/updated for a paid order is the same event as orders/paid. Money is
counted as the customer sees it (presentment money): refunds and disputes come in nothing else.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent

LOSSES = ("needs_response", "under_review", "accepted", "lost")
"""States of a chargeback in which the bank has the money."""


class Shopify(HmacAdapter):
    """`webhook_secrets` are the app's client secrets, or the secret under Settings, Notifications, Webhooks."""

    tells_account: ClassVar = False
    scheme: ClassVar = HmacScheme("X-Shopify-Hmac-Sha256", encoding="base64")
    invoice: Pointers = ("/note_attributes/invoice_id",)
    """An order's note attributes are read as an object: their values by their names."""

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        paid = {"amount": money.to_decimal(amount, currency), "currency_code": currency}
        sample = self.naming(invoice, {
            "id": f"sample_{invoice}", "financial_status": "paid", "test": self.mode == "test", "line_items": [],
            "total_price_set": {"presentment_money": paid},
        })  # fmt: skip
        notes = [{"name": name, "value": value} for name, value in sample.get("note_attributes", {}).items()]
        return as_json(sample | {"note_attributes": notes})

    def items(self, body: bytes) -> Iterable[Payload]:
        """A refund's transactions one by one: they can be in several states."""
        [item] = super().items(body)
        if "refund_line_items" in item.value:
            return item.parts("/transactions")
        return [item]

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        if not isinstance(item.value, dict) or not item.value:
            raise item.unreadable("", "an object of Shopify's")
        keys = item.value.keys()
        if {"financial_status", "line_items"} <= keys:
            return self._order(item)
        if {"order_id", "kind", "gateway"} <= keys:
            return self._transaction(item)
        if {"order_id", "type", "evidence_due_by"} <= keys:
            return self._dispute(item)
        return ()

    def _order(self, order: Payload) -> Iterable[PaymentEvent]:
        status = order.get("/financial_status")
        if status not in ("paid", "partially_refunded", "refunded"):
            return
        if status != "paid" and not money.is_zero(order.get("/total_outstanding") or 0):
            raise UnusableError("not_completed", "the order was refunded before all of it was paid")
        self.require_mode(live=not order.flag("/test"))
        total = "/total_price_set/presentment_money"
        amount, currency = order.get(f"{total}/amount"), order.get(f"{total}/currency_code")
        if order.get(total) is None:  # an old API version, from when a shop had one currency
            amount, currency = order.get("/total_price"), order.get("/currency")
        if not money.is_zero(amount):  # a discount may pay for all of an order
            named = Payload(order.value | {"note_attributes": _by_name(order.get("/note_attributes"))}, order.at)
            reference = order.identifier("/id")
            got = money.from_decimal(amount, currency)
            yield self.event(named, f"{reference}:paid", "payment", got, reference, time="/processed_at")

    def _transaction(self, transaction: Payload) -> Iterable[PaymentEvent]:
        if (transaction.get("/kind"), transaction.get("/status")) == ("refund", "success"):
            self.require_mode(live=not transaction.flag("/test"))
            if not money.is_zero(transaction.get("/amount")):
                yield self._undoing(transaction, "refund", "/processed_at")

    def _dispute(self, dispute: Payload) -> Iterable[PaymentEvent]:
        match dispute.get("/type"), dispute.get("/status"):
            case "chargeback", status if status in LOSSES:
                yield self._undoing(dispute, "chargeback", "/initiated_at")
            case "chargeback", "won":
                yield self._undoing(dispute, "chargeback_reversal", "/finalized_on")
            case "chargeback", "prevented":
                raise UnusableError("dispute_prevented", "look in Shopify whether the payment was given back")

    def _undoing(self, item: Payload, kind: str, time: str) -> PaymentEvent:
        reference = item.identifier("/id")
        got = money.from_decimal(item.get("/amount"), item.get("/currency"))
        nowhere = (None, None)  # an order's places mean other things here, such as /note
        order = item.optional_identifier("/order_id")
        return self.event(item, f"{reference}:{kind}", kind, got, reference, parent=order, invoice=nowhere, time=time)


def _by_name(attributes: object) -> dict[str, Any]:
    pairs = [pair for pair in attributes if isinstance(pair, dict)] if isinstance(attributes, list) else []
    return {str(pair.get("name")): pair.get("value") for pair in pairs}
