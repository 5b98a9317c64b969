"""Coinbase Commerce: https://docs.cdp.coinbase.com/commerce/webhooks/overview.

charge:confirmed alone posts: until then a payment may still vanish from its blockchain. What was paid is what the
confirmed payments of the charge were worth in its own currency, and not the price it asks for (pricing).
"""

from collections.abc import Iterable
from typing import ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent


class Coinbase(HmacAdapter):
    """`webhook_secrets` are the shared secrets of the webhook subscriptions."""

    tells_account: ClassVar = False
    scheme: ClassVar = HmacScheme("X-CC-Webhook-Signature")
    invoice: Pointers = ("/data/metadata/invoice_id",)

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        local = {"amount": money.to_decimal(amount, currency), "currency": currency}
        charge = {
            "code": f"SAMPLE{invoice}",
            "payments": [{"status": "CONFIRMED", "transaction_id": f"0x{invoice}", "value": {"local": local}}],
        }  # fmt: skip
        event = {"id": f"sample_{invoice}", "type": "charge:confirmed", "data": charge}
        return as_json({"event": self.naming(invoice, event)})

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        event = item.part("/event")
        if event.text("/type") == "charge:confirmed":
            got = _paid(event.part("/data"))
            yield self.event(event, event.text("/id"), "payment", got, event.text("/data/code"), time="/created_at")


def _paid(charge: Payload) -> money.Money:
    """What the charge's confirmed payments come to; refunds of what was sent too much, or too late, are not in it."""
    paid = [
        money.from_decimal(payment.get("/value/local/amount"), payment.get("/value/local/currency"))
        for payment in charge.parts("/payments")
        if str(payment.get("/status")).upper() == "CONFIRMED" and not money.is_zero(payment.get("/value/local/amount"))
    ]
    currencies = {part.currency for part in paid}
    if len(currencies) != 1:
        raise UnusableError("bad_amount", "the charge has no confirmed payments, or some in different currencies")
    return money.Money(sum(part.amount for part in paid), *currencies)
