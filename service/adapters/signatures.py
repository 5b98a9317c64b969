"""Signatures of requests: an HMAC in a header, of the body alone or with a timestamp. Compared in constant time."""

import base64
import hmac
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from service.adapters.adapter import Adapter, Delivery

MAX_SIGNATURES = 16
"""A request may carry so many: a rotation of secrets needs two."""
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class HmacScheme(NamedTuple):
    """Where the HMAC of a request stands, how it is written, and what it covers."""

    header: str
    algorithm: str = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    separator: str | None = None
    """Parts the header, where it may hold several signatures and the timestamp."""
    timestamp_header: str | None = None
    timestamp_prefix: str | None = None
    """With it begins the part of `header` that is the timestamp."""
    tolerance: int = 300
    """Seconds that a timestamp may be off, either way."""
    id_header: str | None = None
    signed: str = "{body}"
    """What is signed: {body} once; {timestamp} once where there is one, {id} once before it where there is one."""

    def is_authentic(self, keys: Iterable[bytes], delivery: Delivery) -> bool:
        """Whether one of `keys` signed these very bytes, recently if there is a timestamp. Any doubt is no."""
        offered, message = self.offered(delivery)
        return is_any_of(offered, (self.signature(key, message) for key in keys))

    def offered(self, delivery: Delivery) -> tuple[Sequence[str], bytes]:
        """What a request offers as signatures, and the message they should be of; none if that is not recent."""
        header = delivery.header(self.header)
        parts = [header] if self.separator is None else [part.strip() for part in header.split(self.separator)]
        message_id = delivery.header(self.id_header) if self.id_header else ""
        times = [delivery.header(self.timestamp_header)] if self.timestamp_header else []
        if prefix := self.timestamp_prefix:
            times = [part.removeprefix(prefix) for part in parts if part.startswith(prefix)]
        if (
            len(parts) > MAX_SIGNATURES
            or ("{id}" in self.signed and not message_id)
            or ("{timestamp}" in self.signed and not _is_one_and_recent(times, delivery.received_at, self.tolerance))
        ):
            return (), b""
        return parts, self.message(delivery.body, "".join(times), message_id)

    def headers(self, key: bytes, body: bytes, now: float, message_id: str = "") -> Mapping[str, str]:
        """The headers that make a body authentic, signed at `now`, in seconds since 1970."""
        timestamp = f"{now:.0f}"
        signature = self.signature(key, self.message(body, timestamp, message_id))
        if self.timestamp_prefix:
            signature = f"{self.timestamp_prefix}{timestamp}{self.separator}{signature}"
        headers = {self.header: signature, self.timestamp_header: timestamp, self.id_header: message_id}
        return {name: value for name, value in headers.items() if name}

    def message(self, body: bytes, timestamp: str = "", message_id: str = "") -> bytes:
        """What is signed of a request."""
        before, after = self.signed.replace("{timestamp}", timestamp).split("{body}")
        return before.replace("{id}", message_id).encode("utf-8", "surrogateescape") + body + after.encode()

    def signature(self, key: bytes, message: bytes) -> str:
        """The signature of a message, with its prefix."""
        return self.prefix + mac(key, message, self.algorithm, self.encoding)


class HmacAdapter(Adapter):
    """An adapter whose webhooks carry an HMAC in a header, and nothing else to verify."""

    @property
    @abstractmethod
    def scheme(self) -> HmacScheme:
        """How the provider signs."""

    @property
    def keys(self) -> Sequence[bytes]:
        """The bytes of webhook_secrets."""
        return [secret.encode() for secret in self.webhook_secrets]

    async def is_authentic(self, delivery: Delivery) -> bool:
        return self.scheme.is_authentic(self.keys, delivery)

    def sign(self, body: bytes, now: float) -> Mapping[str, str]:
        return self.scheme.headers(self.keys[0], body, now, f"msg_{now:.0f}")


def mac(key: bytes, message: bytes, algorithm: str = "sha256", encoding: Literal["hex", "base64"] = "hex") -> str:
    """The HMAC of `message`, written as hex (lower case) or base64."""
    digest = hmac.digest(key, message, algorithm)
    return digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()


def is_any_of(given: Sequence[str], expected: Iterable[str]) -> bool:
    """Whether a signature that was given is one of those expected. Too many given are none."""
    if len(given) > MAX_SIGNATURES:
        return False
    offered = [signature.encode("utf-8", "surrogateescape") for signature in given]
    for signature in expected:
        wanted = signature.encode()
        for one in offered:
            if hmac.compare_digest(one, wanted):
                return True
    return False


def is_ed25519(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the private key of `public_key` (32 bytes) signed the message."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - slow to import, and few need it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_one_and_recent(times: Sequence[str], now: float, tolerance: float) -> bool:
    """Whether there is one timestamp, plain ASCII digits, and at most `tolerance` seconds off, either way."""
    return len(times) == 1 and bool(_TIMESTAMP.fullmatch(times[0])) and abs(now - int(times[0])) <= tolerance


def decoded(text: str) -> bytes:
    """The bytes whose base64 is `text`; none where it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
