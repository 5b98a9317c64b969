"""Lemon Squeezy: https://docs.lemonsqueezy.com/help/webhooks and https://docs.lemonsqueezy.com/api/orders.

order_created alone posts a payment. Refunds have no id, and refunded_amount is the sum of all refunds of the order: the
first report posts, and one with a larger sum conflicts with it, which leaves the rest to a person. Events carry no
id of their own, so ids are made from the body.
"""

from collections.abc import Iterable
from typing import ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent


class LemonSqueezy(HmacAdapter):
    """`webhook_secrets` are the signing secrets entered for the webhook; `account` is the store's id."""

    scheme: ClassVar = HmacScheme("X-Signature")
    invoice: Pointers = ("/meta/custom_data/invoice_id",)

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        order = {"status": "paid", "total": amount, "currency": currency, "store_id": self.account}
        meta = {"event_name": "order_created", "test_mode": self.mode == "test"}
        return as_json(self.naming(invoice, {
            "meta": meta,
            "data": {"type": "orders", "id": f"sample_{invoice}", "attributes": order},
        }))  # fmt: skip

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        name = item.text("/meta/event_name")
        if name not in {"order_created", "order_refunded"}:
            return ()
        tests = [item.flag(place) for place in _TEST_MODE if item.get(place) is not None]
        if not tests:
            raise item.unreadable(_TEST_MODE[0], "true or false")
        self.require_mode(live=not any(tests))
        order = item.part("/data/attributes")
        self.require_account(str(order.get("/store_id")))
        return self._payment(item, order) if name == "order_created" else self._refund(item, order)

    def _payment(self, item: Payload, order: Payload) -> Iterable[PaymentEvent]:
        if order.text("/status") == "paid" and not money.is_zero(order.get("/total")):
            got = money.from_minor(order.get("/total"), order.get("/currency"))
            order_id = item.text("/data/id")
            event_id = f"{order_id}:order_created:paid"
            yield self.event(item, event_id, "payment", got, order_id, time="/data/attributes/created_at")

    def _refund(self, item: Payload, order: Payload) -> Iterable[PaymentEvent]:
        refunded = order.get("/refunded_amount")
        if refunded is None and order.get("/refunded") is True:  # from before there were partial refunds
            refunded = order.get("/total")
        got = money.from_minor(refunded, order.get("/currency"))
        order_id = item.text("/data/id")
        event_id = f"{order_id}:order_refunded:{order.text('/status')}"
        time = "/data/attributes/refunded_at"
        yield self.event(item, event_id, "refund", got, f"{order_id}/refund", parent=order_id, time=time)


_TEST_MODE = ("/meta/test_mode", "/data/attributes/test_mode")
