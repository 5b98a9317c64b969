"""PayPal: https://developer.paypal.com/api/rest/webhooks/rest/ and https://developer.paypal.com/docs/api/payments/v2/.

PayPal signs no more of a body than its CRC-32, and whoever has seen one webhook can make another with the same. So the
event that a webhook names is fetched from the API, and that is what counts.
"""

import re
from collections.abc import Iterable

from service.adapters import money
from service.adapters.adapter import FetchError, Pointers, as_json
from service.adapters.payload import Payload, UnusableError
from service.adapters.paypal_api import ConfirmedByPayPal
from service.adapters.paypal_signature import SignedByPayPal
from service.database import PaymentEvent

KINDS = {
    f"PAYMENT.{what}.{became}": kind
    for what in ("CAPTURE", "SALE")
    for became, kind in (("COMPLETED", "payment"), ("REFUNDED", "refund"), ("REVERSED", "chargeback"))
}
"""What an event is. Disputes are information: a lost one reverses the capture."""
_PARENT = re.compile(r".*/(?:captures?|sale)/([A-Za-z0-9-]{1,100})", re.ASCII)


class PayPal(SignedByPayPal, ConfirmedByPayPal):
    """What PayPal's captures and sales mean; how they are signed and confirmed say its bases."""

    invoice: Pointers = tuple(f"/resource/{name}" for name in ("invoice_id", "custom_id", "invoice_number", "custom"))

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        paid = {"value": money.to_decimal(amount, currency), "currency_code": currency}
        capture = {"id": f"SAMPLE{invoice}", "status": "COMPLETED", "invoice_id": invoice}
        return as_json({
            "id": f"WH-SAMPLE-{invoice}", "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource_version": "2.0",
            "resource": capture | {"amount": paid},
        })  # fmt: skip

    async def complete(self, item: Payload) -> Payload:
        """The event as the API has it."""
        if item.text("/event_type") not in KINDS or self.client_id is None:
            return item
        name = item.text("/id")
        try:
            return Payload(await self.api.resource("v1", "notifications", "webhooks-events", name))
        except UnusableError as error:  # forged, or not yet there
            raise FetchError(str(error)) from None

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        kind, resource = KINDS.get(item.text("/event_type")), item.part("/resource")
        if kind is None:
            return
        self.require_account(resource.get("/payee/merchant_id") or self.account)
        paid = {"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED", "REVERSED"} if kind == "payment" else {"COMPLETED"}
        if (status := resource.text("/status", "/state").upper()) not in paid:
            raise UnusableError("not_completed", f"the {kind} is {status}")
        value = resource.get("/amount/value") or resource.get("/amount/total")
        if kind != "payment" and isinstance(value, str):
            value = value.removeprefix("-")
        got = money.from_decimal(value, resource.get("/amount/currency_code") or resource.get("/amount/currency"))
        parent = _parent(resource) if kind != "payment" else None
        invoice = (None, None) if parent else None  # a refund's own invoice_id is that of a credit note
        event_id, reference = item.text("/id"), resource.text("/id")
        yield self.event(item, event_id, kind, got, reference, parent=parent, invoice=invoice, time="/create_time")


def _parent(resource: Payload) -> str | None:
    """The capture or sale that a refund is of."""
    named = resource.optional_text("/capture_id", "/sale_id")
    links = resource.optional_parts("/links") if named is None else ()
    hrefs = [str(link.get("/href")) for link in links if link.get("/rel") in ("up", "capture", "sale")]
    return next((found[1] for href in hrefs if (found := _PARENT.fullmatch(href))), named)
