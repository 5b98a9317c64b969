"""Paystack: https://paystack.com/docs/payments/webhooks/ and https://paystack.com/docs/payments/refunds/.

Events carry no id of their own, so ids are made from the body. A transaction is known by its reference, a refund by
its id or its processor's reference, a dispute by its id. A dispute takes money only when it is resolved by
paying: https://paystack.com/docs/payments/manage-disputes/.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.money import Money
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent

EXPONENTS = {"XOF": 2}
"""Paystack counts francs in hundredths (https://paystack.com/docs/api/#supported-currency)."""


class Paystack(HmacAdapter):
    """`webhook_secrets` are the secret keys of the API (sk_live_… or sk_test_…), which also sign the webhooks."""

    tells_account: ClassVar = False
    scheme: ClassVar = HmacScheme("X-Paystack-Signature", "sha512")
    invoice: Pointers = ("/data/metadata/invoice_id", "/data/transaction/metadata/invoice_id", "/data/reference")

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        charge = {"reference": f"sample_{invoice}", "amount": amount, "currency": currency, "status": "success"}
        return as_json(self.naming(invoice, {"event": "charge.success", "data": charge | {"domain": self.mode}}))

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        report = self._reports.get(item.text("/event"))
        if report is None:
            return ()
        self.require_mode(live=item.text("/data/domain") == "live")
        return report(self, item, item.part("/data"))

    def _payment(self, item: Payload, charge: Payload) -> Iterable[PaymentEvent]:
        got = _money(charge.get("/amount"), charge.get("/currency"))
        yield self._moved(item, "payment", got, charge.text("/reference"), time="/data/paid_at")

    def _refund(self, item: Payload, refund: Payload) -> Iterable[PaymentEvent]:
        if not refund.get("/dispute"):  # what settles a dispute is posted when that is resolved
            reference = refund.identifier("/refund_reference" if refund.get("/id") in (None, "") else "/id")
            got = _money(refund.get("/amount"), refund.get("/currency"))
            parent = refund.text("/transaction_reference")
            yield self._moved(item, "refund", got, reference, parent=parent, time="/data/refunded_at")

    def _dispute(self, item: Payload, dispute: Payload) -> Iterable[PaymentEvent]:
        if dispute.get("/resolution") != "declined" and not money.is_zero(dispute.get("/refund_amount")):
            currency = dispute.get("/currency") or dispute.get("/transaction/currency")
            got = _money(dispute.get("/refund_amount"), currency)
            parent = dispute.text("/transaction/reference")
            reference = dispute.identifier("/id")
            yield self._moved(item, "chargeback", got, reference, parent=parent, time="/data/resolvedAt")

    def _moved(
        self, item: Payload, kind: str, got: Money, reference: str, *, parent: str | None = None, time: str
    ) -> PaymentEvent:
        event_id = f"{reference}:{item.text('/event')}:{item.text('/data/status')}"
        return self.event(item, event_id, kind, got, reference, parent=parent, time=time)

    _reports: ClassVar[dict[str, Callable[..., Iterable[PaymentEvent]]]] = {
        "charge.success": _payment,
        "refund.processed": _refund,
        "charge.dispute.resolve": _dispute,
    }


def _money(amount: object, currency: object) -> Money:
    read = money.from_minor_text if isinstance(amount, str) else money.from_minor
    return read(amount, currency, EXPONENTS)
