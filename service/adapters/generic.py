"""Any provider that signs its JSON with an HMAC: where everything stands is configured.

Places in the body are JSON pointers (RFC 6901); of several, the first that holds something counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from service.adapters import money
from service.adapters.adapter import Pointers, as_json
from service.adapters.direct import Kind
from service.adapters.generic_signature import SignedAsConfigured
from service.adapters.payload import Payload, put
from service.database import PaymentEvent

Pointer = Annotated[str, Field(pattern="^/")]


def _pairs(value: object) -> object:
    """An environment variable's `name=value,…`, as the table that a TOML file would have."""
    if not isinstance(value, str) or any("=" not in part for part in value.split(",")):
        return value
    pairs = [part.rpartition("=") for part in value.split(",")]
    return {name.strip(): word.strip() for name, _, word in pairs}


class Generic(SignedAsConfigured):
    """Where a body tells what, and what its event types mean."""

    tells_account: ClassVar = False

    event_type: Pointers = Field(min_length=1)
    """Of several, the values are joined with ':', as in charge.updated:succeeded."""
    kinds: Annotated[Mapping[str, Kind], BeforeValidator(_pairs)]
    """What the provider's event types mean; others are ignored."""
    event_id: Pointers = ()
    """If the body has none, the type and the reference make one."""
    reference: Pointers = Field(min_length=1)
    parent: Pointers = ()
    amount: Pointers = Field(min_length=1)
    amount_unit: Literal["minor", "minor_text", "decimal"] = "minor"
    exponents: Annotated[Mapping[str, Annotated[int, Field(ge=0, le=6)]], BeforeValidator(_pairs)] = Field(default={})
    """Decimals of currencies of which the provider counts others than ISO 4217, such as UGX=2."""
    currency: Pointers = ()
    currency_code: str | None = Field(default=None, pattern="^[A-Z]{3}$", validate_default=True)
    """The currency of every event, where the body names none."""
    time: Pointer | None = None
    live: Pointer | None = Field(default=None, validate_default=True)
    """Where true stands in a live event and false in a test event."""

    @field_validator("kinds")
    @classmethod
    def _has_a_payment(cls, kinds: Mapping[str, Kind]) -> Mapping[str, Kind]:
        if "payment" not in kinds.values():
            raise ValueError("no event type means a payment")
        return kinds

    @field_validator("currency_code")
    @classmethod
    def _is_the_only_currency(cls, code: str | None, info: ValidationInfo) -> str | None:
        if (code is None) == (not info.data.get("currency")):
            raise ValueError("set either currency, where it stands, or currency_code, such as EUR")
        return code

    @field_validator("live")
    @classmethod
    def _tells_a_test(cls, live: str | None, info: ValidationInfo) -> str | None:
        if live is None and info.data.get("mode") == "test":
            raise ValueError("mode is test: say where an event tells it, or leave mode out")
        return live

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        body: dict[str, Any] = {}
        name = next(name for name, kind in self.kinds.items() if kind == "payment")
        for pointer, part in zip(self.event_type, name.split(":", len(self.event_type) - 1), strict=False):
            put(body, pointer, part)
        value = {"minor": amount, "minor_text": str(amount)}.get(self.amount_unit)
        put(body, self.amount[-1], money.to_decimal(amount, currency) if value is None else value)
        put(body, self.reference[-1], f"payment_sample_{invoice}")
        for pointers, text in (
            (self.event_id, f"event_sample_{invoice}"), (self.currency, currency), (self.invoice, invoice),
        ):  # fmt: skip
            for pointer in pointers[:1]:
                put(body, pointer, text)
        if self.live:
            put(body, self.live, self.mode == "live")
        return as_json(body)

    def translate(self, item: Payload) -> Iterable[PaymentEvent]:
        parts = [item.optional_identifier(pointer) for pointer in self.event_type]
        if parts[0] is None:
            raise item.unreadable(self.event_type[0], "an event type")
        name = ":".join(part or "" for part in parts)
        kind = self.kinds.get(name)
        if kind is None:
            return
        if self.live:
            self.require_mode(live=item.flag(self.live))
        reference = _required(item, self.reference)
        yield self.event(
            item,
            _required(item, self.event_id) if self.event_id else f"{name}:{reference}",
            kind,
            self._money(item),
            reference,
            parent=None if kind in {"payment", "payment_reversal"} else item.optional_identifier(*self.parent),
            time=self.time or "",
        )

    def _money(self, item: Payload) -> money.Money:
        amount = item.get(item.first(self.amount) or self.amount[0])
        currency = self.currency_code or item.get(item.first(self.currency) or self.currency[0])
        if self.amount_unit == "decimal":
            return money.from_decimal(amount, currency)
        read = money.from_minor if self.amount_unit == "minor" else money.from_minor_text
        return read(amount, currency, self.exponents)


def _required(item: Payload, pointers: Sequence[str]) -> str:
    identifier = item.optional_identifier(*pointers)
    if identifier is None:
        raise item.unreadable(" or ".join(pointers), "there")
    return identifier
