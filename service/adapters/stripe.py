"""Stripe: https://docs.stripe.com/webhooks and https://docs.stripe.com/api/events/types.

payment_intent.succeeded alone posts a payment; checkout sessions and Stripe's own invoices only say whose it is.
Refunds and disputes find the invoice through their payment intent.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

from service.adapters import money
from service.adapters.adapter import Pointers, as_json, wrong_account
from service.adapters.payload import Payload, UnusableError
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import Link, PaymentEvent

EXPONENTS = {"ISK": 2, "MGA": 0, "UGX": 2}
"""Where Stripe's decimals differ from ISO 4217 (https://docs.stripe.com/currencies#special-cases)."""


class Stripe(HmacAdapter):
    """`webhook_secrets` are the endpoint's signing secrets (whsec_…). `account` is a connected account, * any."""

    scheme: ClassVar = HmacScheme(
        "Stripe-Signature", separator=",", timestamp_prefix="t=", prefix="v1=", signed="{timestamp}.{body}"
    )
    invoice: Pointers = ("/data/object/metadata/invoice_id", "/data/object/client_reference_id")

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        intent = {"id": f"pi_sample_{invoice}", "amount_received": amount, "currency": currency}
        return as_json(self.naming(invoice, {
            "id": f"evt_sample_{invoice}", "type": "payment_intent.succeeded", "livemode": self.mode == "live",
            "account": self.account, "data": {"object": intent},
        }))  # fmt: skip

    def translate(self, item: Payload) -> Iterable[PaymentEvent | Link]:
        if (report := self._reports.get(item.text("/type"))) is None:
            return ()
        self.require_mode(live=item.flag("/livemode"))
        if item.get("/account") not in (None, self.account) and self.account != "*":  # our own account's do not say
            raise wrong_account(item.get("/account"), self.account or "our own")
        return report(self, item, item.part("/data/object"))

    def _payment(self, item: Payload, intent: Payload) -> Iterable[PaymentEvent]:
        if not money.is_zero(intent.get("/amount_received")):
            yield self._moved(item, "payment", intent.get("/amount_received"), intent.text("/id"))

    def _refund(self, item: Payload, refund: Payload) -> Iterable[PaymentEvent]:
        match refund.text("/status"), item.get("/data/previous_attributes/status"):
            case "succeeded", _:
                yield self._moved(item, "refund", refund.get("/amount"), refund.text("/id"))
            case "failed" | "canceled", "succeeded" | None:  # what fails while it is pending never was a refund
                yield self._moved(item, "refund_reversal", refund.get("/amount"), refund.text("/id"))

    def _dispute(self, item: Payload, dispute: Payload) -> Iterable[PaymentEvent]:
        """A balance transaction below zero took the money, a stage of the dispute each; one above brought it back."""
        withdrawn = item.text("/type").endswith("withdrawn")
        moves = [move for move in dispute.parts("/balance_transactions") if isinstance(move.get("/amount"), int)]
        taken, given = ([move for move in moves if sign * move.get("/amount") > 0] for sign in (-1, 1))
        if not taken or not (withdrawn or given):
            raise UnusableError("bad_amount", "no balance transaction of the dispute says how much was moved")
        moved, kind = (taken[-1], "chargeback") if withdrawn else (given[-1], "chargeback_reversal")
        is_exchanged = moved.get("/currency") not in (None, dispute.get("/currency"))  # into the account's currency
        amount = dispute.get("/amount") if is_exchanged else abs(moved.get("/amount"))
        yield self._moved(item, kind, amount, f"{dispute.text('/id')}/{len(taken)}")

    def _moved(self, item: Payload, kind: str, amount: object, reference: str) -> PaymentEvent:
        got = money.from_minor(amount, item.get("/data/object/currency"), EXPONENTS)
        parent = None if kind == "payment" else item.optional_text("/data/object/payment_intent", "/data/object/charge")
        return self.event(item, item.text("/id"), kind, got, reference, parent=parent, time="/created")

    def _session(self, item: Payload, session: Payload) -> Iterable[Link]:
        if session.get("/mode") == "payment" and session.get("/payment_status") == "paid":
            _require_intent(session, session.get("/amount_total"))
        return self.links(item, session.get("/payment_intent"), session.get("/invoice"))

    def _invoice(self, item: Payload, invoice: Payload) -> Iterable[Link]:
        reference = invoice.text("/id")
        names_intent = "payment_intent" in invoice.value  # before API version 2025-03-31; since then _invoice_payment
        paid = Payload(None) if invoice.get("/paid_out_of_band") is True else invoice
        _require_intent(paid, invoice.get("/total") if names_intent or invoice.get("/amount_paid") == 0 else 0)
        return self.links(item, invoice.get("/payment_intent"), reference)

    def _invoice_payment(self, _: Payload, paid: Payload) -> Iterable[Link]:
        _require_intent(paid.part("/payment"), paid.get("/amount_paid"))
        yield Link(paid.text("/payment/payment_intent"), None, paid.text("/invoice"))

    _reports: ClassVar[dict[str, Callable[..., Iterable[PaymentEvent | Link]]]] = {
        "payment_intent.succeeded": _payment,
        **dict.fromkeys(("refund.created", "refund.updated", "refund.failed", "charge.refund.updated"), _refund),
        **dict.fromkeys(("charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"), _dispute),
        **dict.fromkeys(("checkout.session.completed", "checkout.session.async_payment_succeeded"), _session),
        "invoice.paid": _invoice,
        "invoice_payment.paid": _invoice_payment,
    }


def _require_intent(payload: Payload, amount: object) -> None:
    if isinstance(amount, int) and amount > 0 and payload.get("/payment_intent") is None:
        raise UnusableError("no_payment_intent", f"{amount} was paid outside a payment intent: by hand, from credit")
