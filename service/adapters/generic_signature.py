"""An HMAC of which every detail is configured."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from service.adapters.adapter import MIN_SECRET
from service.adapters.signatures import HmacAdapter, HmacScheme

Header = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]


class SignedAsConfigured(HmacAdapter):
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

    @property
    def scheme(self) -> HmacScheme:
        return HmacScheme(**{name: getattr(self, name) for name in HmacScheme._fields})

    @property
    def keys(self) -> Sequence[bytes]:
        return [_key(secret, self.secret_encoding) for secret in self.webhook_secrets]


def _key(secret: str, encoding: str) -> bytes:
    """The secret's bytes. Raises ValueError."""
    match encoding:
        case "hex":
            return binascii.unhexlify(secret)
        case "base64":
            return base64.b64decode(secret, validate=True)
        case _:
            return secret.encode()
