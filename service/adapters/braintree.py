"""Braintree: https://developer.paypal.com/braintree/docs/guides/webhooks/overview.

A notification is XML in base64, in a form that holds its signature too. It has no id: one is made of what it is about.
Braintree tells of settled transactions only for bank debits (ACH, SEPA); disputes it tells of for all.
"""

import base64
from collections.abc import Iterable
from xml.sax.saxutils import escape

from service.adapters import money, strict_xml
from service.adapters.adapter import Pointers
from service.adapters.braintree_signature import SignedForms, form
from service.adapters.payload import Payload, UnusableError
from service.database import PaymentEvent

_SAMPLE = """<notification><kind>transaction_settled</kind><subject><transaction><id>sample{}</id><type>sale</type>
<amount>{}</amount><currency-iso-code>{}</currency-iso-code><merchant-account-id>{}</merchant-account-id>
<order-id>{}</order-id></transaction></subject></notification>"""


class Braintree(SignedForms):
    """`account` is the id of a merchant account."""

    invoice: Pointers = ("/notification/subject/transaction/order-id",)

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        values = (invoice, money.to_decimal(amount, currency), currency, self.account or "", invoice)
        return self.signed(_SAMPLE.format(*map(escape, values)))

    def items(self, body: bytes) -> Iterable[Payload]:
        try:
            return [Payload(strict_xml.parse(base64.b64decode(form(body)[1])))]
        except ValueError as error:
            raise UnusableError("unreadable", f"bt_payload is not the base64 of XML: {error}") from None

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        subject = item.part("/notification/subject")
        match item.text("/notification/kind"):
            case "transaction_settled":
                yield self._transaction(item, subject.part("/transaction"), "")
            case "transaction_settlement_declined" if _had_settled(subject.part("/transaction")):
                yield self._transaction(item, subject.part("/transaction"), "_reversal")
            case "dispute_opened" if subject.get("/dispute/kind") != "retrieval":  # which asks, and takes nothing
                yield self._dispute(item, subject.part("/dispute"), "chargeback", "/amount-disputed")
            case "dispute_won" if subject.get("/dispute/kind") != "retrieval":
                yield self._dispute(item, subject.part("/dispute"), "chargeback_reversal", "/amount-won")

    def _transaction(self, item: Payload, transaction: Payload, suffix: str) -> PaymentEvent:
        self.require_account(transaction.get("/merchant-account-id"))
        is_sale = transaction.text("/type") == "sale"
        kind = ("payment" if is_sale else "refund") + suffix
        got = money.from_decimal(transaction.get("/amount"), transaction.get("/currency-iso-code"))
        parent = None if is_sale else transaction.optional_text("/refunded-transaction-id")
        return self._event(item, kind, got, transaction.text("/id"), parent)

    def _dispute(self, item: Payload, dispute: Payload, kind: str, amount: str) -> PaymentEvent:
        if dispute.get("/merchant-account-id") is not None:  # older notifications do not say
            self.require_account(dispute.get("/merchant-account-id"))
        moved = dispute.get(amount) or dispute.get("/amount")
        got = money.from_decimal(moved, dispute.get("/currency-iso-code"))
        return self._event(item, kind, got, dispute.text("/id"), dispute.text("/transaction/id"))

    def _event(self, item: Payload, kind: str, got: money.Money, reference: str, parent: str | None) -> PaymentEvent:
        invoice = (None, None) if parent else None  # a refund may have an order id of its own
        time, event_id = "/notification/timestamp", f"{reference}:{kind}"
        return self.event(item, event_id, kind, got, reference, parent=parent, invoice=invoice, time=time)


def _had_settled(transaction: Payload) -> bool:
    """Whether a declined transaction settled before, as bank debits may; where there is no history, it may have."""
    history = transaction.get("/status-history")
    return not isinstance(history, list) or any(event.get("/status") == "settled" for event in map(Payload, history))
