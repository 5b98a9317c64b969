"""Any provider that signs its JSON with an HMAC: where everything stands is configured.

Places in the body are JSON pointers (RFC 6901); of several, the first that holds something counts.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from service.adapters import money
from service.adapters.adapter import CurrencyCode, Pairs, Pointer, Pointers, as_json
from service.adapters.direct import Kind
from service.adapters.generic_signature import SignedAsConfigured
from service.adapters.payload import Payload, put
from service.database import PaymentEvent


class Generic(SignedAsConfigured):
    """Where a body tells what, and what its event types mean."""

    tells_account: ClassVar = False

    events: Pointer | None = None
    """Where the array stands, if a body holds several events; all other places are within each of them."""
    event_type: Pointers = Field(min_length=1)
    """Of several, the values are joined with ':', as in charge.updated:succeeded."""
    kinds: Annotated[Mapping[str, Kind], Pairs]
    """What the provider's event types mean; others are ignored."""
    event_id: Pointers = ()
    """If the body has none, the type and the reference make one."""
    reference: Pointers = Field(min_length=1)
    parent: Pointers = ()
    amount: Pointers = Field(min_length=1)
    amount_unit: Literal["minor", "minor_text", "decimal", "number"] = "minor"
    exponents: Annotated[Mapping[CurrencyCode, Annotated[int, Field(ge=0, le=6)]], Pairs] = Field(default={})
    """Decimals of currencies of which the provider counts others than ISO 4217, such as UGX=2."""
    currency: Pointers = ()
    currency_code: CurrencyCode | None = Field(default=None, validate_default=True)
    """The currency of every event, where the body names none."""
    time: Pointer | None = None
    live: Pointer | None = Field(default=None, validate_default=True)
    """Where true stands in a live event and false in a test event."""

    @field_validator("kinds", "exponents", "currency_code", "live")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        match info.field_name:
            case "kinds" if "payment" not in value.values():
                raise ValueError("no event type means a payment")
            case "exponents" if info.data.get("amount_unit") in {"decimal", "number"}:
                raise ValueError("amounts with a point need none; remove it, or set amount_unit to minor")
            case "currency_code" if (value is None) == (not info.data.get("currency")):
                raise ValueError("set either currency, where it stands, or currency_code, such as EUR")
            case "live" if value is None and info.data.get("mode") == "test":
                raise ValueError("mode is test: say where an event tells it, or leave mode out")
        return value

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        name = next(name for name, kind in self.kinds.items() if kind == "payment")
        decimal = money.to_decimal(amount, currency)
        amounts = {"minor": amount, "minor_text": str(amount), "decimal": decimal, "number": float(decimal)}
        values: dict[str, object] = {
            **dict(zip(self.event_type, name.split(":", len(self.event_type) - 1), strict=False)),
            **dict.fromkeys(self.event_id[:1], f"event_sample_{invoice}"),
            **dict.fromkeys(self.currency[:1], currency),
            **dict.fromkeys(self.invoice[:1], invoice),
            self.reference[-1]: f"payment_sample_{invoice}",
            self.amount[-1]: amounts[self.amount_unit],
            **({self.live: self.mode == "live"} if self.live else {}),
        }
        body: dict[str, Any] = {}
        for pointer, value in values.items():
            put(body, pointer, value)
        return as_json(put({}, self.events, [body]) if self.events else body)

    def items(self, body: bytes) -> Iterable[Payload]:
        [whole] = super().items(body)
        return whole.parts(self.events) if self.events else [whole]

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        first, *others = self.event_type
        name = ":".join([item.identifier(first), *(item.optional_identifier(pointer) or "" for pointer in others)])
        if (kind := self.kinds.get(name)) is None:
            return
        if self.live:
            self.require_mode(live=item.flag(self.live))
        reference = item.identifier(*self.reference)
        event_id = item.identifier(*self.event_id) if self.event_id else f"{name}:{reference}"
        parent = None if kind in {"payment", "payment_reversal"} else item.optional_identifier(*self.parent)
        yield self.event(item, event_id, kind, self._money(item), reference, parent=parent, time=self.time or "")

    def _money(self, item: Payload) -> money.Money:
        amount = item.get(item.first(self.amount) or self.amount[0])
        currency = self.currency_code or item.get(item.first(self.currency) or self.currency[0])
        if self.amount_unit in {"decimal", "number"}:
            return (money.from_decimal if self.amount_unit == "decimal" else money.from_number)(amount, currency)
        read = money.from_minor if self.amount_unit == "minor" else money.from_minor_text
        return read(amount, currency, self.exponents)
