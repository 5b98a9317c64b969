"""Adyen: https://docs.adyen.com/development-resources/webhooks and https://docs.adyen.com/api-explorer/Webhooks/1/overview.

AUTHORISATION posts a payment, or CAPTURE where payments are captured by hand. What follows finds its invoice through
the payment's pspReference: the merchantReference of a capture or a refund may be one of its own.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from service.adapters import money
from service.adapters.adapter import Adapter, Delivery, Names, Pointers, as_json
from service.adapters.adyen_signature import HexKeys, is_signed, signature
from service.adapters.payload import Payload, UnusableError
from service.database import Link, PaymentEvent

EXPONENTS = {"CLP": 2, "CVE": 0, "IDR": 0, "ISK": 2}
"""Where Adyen's decimals differ from ISO 4217 (https://docs.adyen.com/development-resources/currency-codes)."""
MOVEMENTS = {
    **dict.fromkeys(("AUTHORISATION", "CAPTURE"), ("payment", "")),
    **dict.fromkeys(("CAPTURE_FAILED", "CANCELLATION", "TECHNICAL_CANCEL", "EXPIRE"), ("payment_reversal", "")),
    **dict.fromkeys(("REFUND", "CANCEL_OR_REFUND"), ("refund", "")),
    **dict.fromkeys(("REFUND_FAILED", "REFUNDED_REVERSED"), ("refund_reversal", "")),
    "CHARGEBACK": ("chargeback", "/1"),
    "CHARGEBACK_REVERSED": ("chargeback_reversal", "/1"),
    "SECOND_CHARGEBACK": ("chargeback", "/2"),
}
"""The kind of each eventCode, and its stage, since all events of a dispute have one pspReference."""


class Adyen(Adapter):
    """`webhook_secrets` are the HMAC keys of the standard webhook, in hex, as the Customer Area shows them."""

    answer: ClassVar[bytes] = b"[accepted]"

    webhook_secrets: HexKeys
    invoice: Pointers = ("/merchantReference",)
    manual_capture: Names = ()
    """The payment methods that are captured by hand, spelled as paymentMethod is; `*` for all. As Adyen does not sign
    paymentMethod, give merchant accounts that capture differently a connection each, without or with `*`."""

    async def is_authentic(self, delivery: Delivery) -> bool:
        try:
            items = self.items(delivery.body)
            return bool(items) and all(is_signed(item, self.webhook_secrets) for item in items)
        except UnusableError:
            return False

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        item: dict[str, Any] = {
            "eventCode": "CAPTURE" if "*" in self.manual_capture else "AUTHORISATION", "success": "true",
            "pspReference": f"SAMPLE{invoice}".replace(":", "-"), "merchantAccountCode": self.account,
            "paymentMethod": "sample", "amount": {"value": amount, "currency": currency},
        }  # fmt: skip
        self.naming(invoice, item)
        item["additionalData"] = {"hmacSignature": signature(self.webhook_secrets[0], Payload(item))}
        live = "true" if self.mode == "live" else "false"
        return as_json({"live": live, "notificationItems": [{"NotificationRequestItem": item}]})

    def items(self, body: bytes) -> list[Payload]:
        payload = Payload.of_json(body)
        items = [part.part("/NotificationRequestItem") for part in payload.parts("/notificationItems")]
        for item in items:
            if not isinstance(item.value, dict):
                raise item.unreadable("", "a JSON object")
        return [Payload(item.value | {"live": payload.get("/live")}, item.at) for item in items]

    def translate(self, item: Payload) -> Iterable[PaymentEvent | Link]:
        code, psp = item.text("/eventCode"), item.text("/pspReference")
        kind, stage = MOVEMENTS.get(code, ("", ""))
        is_check = code == "AUTHORISATION" and money.is_zero(item.get("/amount/value"))  # of a card: no money moves
        if not kind or is_check or item.get("/success") != "true":
            return
        self.require_mode(live=item.text("/live") == "true")
        self.require_account(item.get("/merchantAccountCode"))
        by_hand = "*" in self.manual_capture or (
            any(self.manual_capture) and item.text("/paymentMethod") in self.manual_capture
        )
        if code == "CANCEL_OR_REFUND" and item.text("/additionalData/modification.action") == "cancel":
            kind = "payment_reversal"
        reference = psp + stage
        if by_hand and code == "AUTHORISATION":
            yield from self.links(item, psp)
            return
        if by_hand and kind == "payment_reversal" and code != "CAPTURE_FAILED":
            return  # what is canceled was never captured
        if code in {"CAPTURE", "EXPIRE"} and not by_hand:  # Adyen tells of no other captures
            raise UnusableError("manual_capture", "captured by hand, or never, what counts since it was authorised")
        if kind == "payment_reversal" and not by_hand:
            reference = item.text("/originalReference")
        original = item.optional_text("/originalReference")
        if original is None and "CHARGEBACK" in code:  # unless Adyen is asked to name both, it names the payment alone
            original = psp
        got = money.from_minor(item.get("/amount/value"), item.get("/amount/currency"), EXPONENTS)
        parent = None if kind == "payment" else original
        by_name = (None, original if by_hand else None)
        invoice = None if code == "AUTHORISATION" or original is None else by_name
        event_id = f"{psp}:{code}:true"
        yield self.event(item, event_id, kind, got, reference, parent=parent, invoice=invoice, time="/eventDate")
