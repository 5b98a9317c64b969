"""Any provider that signs its JSON with an HMAC: where everything stands is configured.

Places in the body are JSON pointers (RFC 6901); of several, the first that holds something counts.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from service.adapters import money
from service.adapters.adapter import MIN_SECRET, Pointers, as_json
from service.adapters.direct import Kind
from service.adapters.payload import Payload
from service.adapters.signatures import HmacAdapter, HmacScheme
from service.database import PaymentEvent

Header = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
Pointer = Annotated[str, Field(pattern="^/")]


def _pairs(value: object) -> object:
    """An environment variable's `name=value,…`, as the table that a TOML file would have."""
    if not isinstance(value, str) or any("=" not in part for part in value.split(",")):
        return value
    pairs = [part.rpartition("=") for part in value.split(",")]
    return {name.strip(): word.strip() for name, _, word in pairs}


class Generic(HmacAdapter):
    """`webhook_secrets` are the provider's signing secrets, written as `secret_encoding` says."""

    secret_encoding: Literal["text", "hex", "base64"] = Field(default="text", validate_default=True)
    header: Header
    """Carries the signature: after `prefix`, as one of its parts between separators, or all there is."""
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    separator: str = Field(default=",", min_length=1)
    prefix: str = ""
    timestamp_header: Header | None = None
    timestamp_prefix: str | None = Field(default=None, min_length=1)
    """With it begins the part of `header` that is the timestamp, such as "t="."""
    tolerance: int = Field(default=300, ge=1, le=86_400)
    """Seconds that a timestamp may be off, either way."""
    id_header: Header | None = None
    """Carries the message's id, where that is signed too."""
    signed: str = Field(default="{body}", validate_default=True)
    """The string that is signed, such as "{timestamp}.{body}"."""

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

    @field_validator("account")
    @classmethod
    def _cannot_be_checked(cls, _: object) -> object:
        raise ValueError("the generic adapter does not know where the account stands; remove it")

    @field_validator("secret_encoding")
    @classmethod
    def _fits_the_secrets(cls, encoding: str, info: ValidationInfo) -> str:
        for secret in info.data.get("webhook_secrets", ()):
            try:
                key = _key(secret, encoding)
            except ValueError:
                key = b""
            if len(key) < MIN_SECRET:
                raise ValueError(f"a secret is not {encoding}, or has less than {MIN_SECRET} bytes")
        return encoding

    @field_validator("prefix")
    @classmethod
    def _is_within_a_part(cls, prefix: str, info: ValidationInfo) -> str:
        if info.data.get("separator", "\n") in prefix:
            raise ValueError("it contains the separator; choose another separator")
        return prefix

    @field_validator("timestamp_prefix")
    @classmethod
    def _is_the_only_one(cls, prefix: str | None, info: ValidationInfo) -> str | None:
        if prefix is not None and info.data.get("timestamp_header"):
            raise ValueError("the timestamp has a header of its own already (timestamp_header); set one of them")
        return prefix

    @field_validator("signed")
    @classmethod
    def _signs_body_and_timestamp(cls, signed: str, info: ValidationInfo) -> str:
        timed = any(info.data.get(f"timestamp_{place}") for place in ("header", "prefix"))
        before = signed.partition("{body}")[0]
        wanted = {"{body}": 1, "{timestamp}": int(timed), "{id}": int(info.data.get("id_header") is not None)}
        if any(signed.count(name) != times for name, times in wanted.items()) or before.count("{id}") != wanted["{id}"]:
            raise ValueError(
                "expected {body} once, {timestamp} once if timestamp_header or timestamp_prefix is set, else not, "
                "and before {body} {id} once if id_header is set, else not"
            )
        return signed

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

    @property
    def scheme(self) -> HmacScheme:
        return HmacScheme(**{name: getattr(self, name) for name in HmacScheme._fields})

    @property
    def keys(self) -> Sequence[bytes]:
        return [_key(secret, self.secret_encoding) for secret in self.webhook_secrets]

    def sample(self, invoice: str, amount: int, currency: str) -> bytes:
        body: dict[str, Any] = {}
        name = next(name for name, kind in self.kinds.items() if kind == "payment")
        for pointer, part in zip(self.event_type, name.split(":", len(self.event_type) - 1), strict=False):
            _put(body, pointer, part)
        value = {"minor": amount, "minor_text": str(amount)}.get(self.amount_unit)
        _put(body, self.amount[-1], money.to_decimal(amount, currency) if value is None else value)
        _put(body, self.reference[-1], f"payment_sample_{invoice}")
        for pointers, text in (
            (self.event_id, f"event_sample_{invoice}"), (self.currency, currency), (self.invoice, invoice),
        ):  # fmt: skip
            for pointer in pointers[:1]:
                _put(body, pointer, text)
        if self.live:
            _put(body, self.live, self.mode == "live")
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


def _key(secret: str, encoding: str) -> bytes:
    """The secret's bytes. Raises ValueError."""
    match encoding:
        case "hex":
            return binascii.unhexlify(secret)
        case "base64":
            return base64.b64decode(secret, validate=True)
        case _:
            return secret.encode()


def _required(item: Payload, pointers: Sequence[str]) -> str:
    identifier = item.optional_identifier(*pointers)
    if identifier is None:
        raise item.unreadable(" or ".join(pointers), "there")
    return identifier


def _put(body: dict[str, Any], pointer: str, value: object) -> None:
    *path, last = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]
    for token in path:
        body = body.setdefault(token, {})
    body[last] = value
