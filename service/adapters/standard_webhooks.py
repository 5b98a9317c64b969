"""Signatures of the Standard Webhooks specification 1.0.0, symmetric scheme v1 (https://www.standardwebhooks.com)."""

import base64
import hmac
import re
from collections.abc import Sequence

from multidict import MultiMapping

TOLERANCE = 300
"""Seconds that a timestamp may be off, either way."""
MAX_SIGNATURES = 16
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The `webhook-signature` of a message: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    mac = hmac.digest(key, f"{message_id}.{timestamp}.".encode("utf-8", "surrogateescape") + body, "sha256")
    return "v1," + base64.b64encode(mac).decode()


def is_authentic(keys: Sequence[bytes], headers: MultiMapping[str], body: bytes, now: float) -> bool:
    """Whether a signature of one of `keys` (a rotation has two) covers these very bytes; any doubt is no.

    `now` is in seconds since 1970. Constant time in what it compares.
    """
    message_id, timestamp, signatures = (_only(headers, f"webhook-{part}") for part in ("id", "timestamp", "signature"))
    if not message_id or not _TIMESTAMP.fullmatch(timestamp) or abs(now - int(timestamp)) > TOLERANCE:
        return False
    given = [signature.encode("utf-8", "surrogateescape") for signature in signatures.split(" ")]
    if len(given) > MAX_SIGNATURES:
        return False
    expected = [sign(key, message_id, timestamp, body).encode() for key in keys]
    return any(hmac.compare_digest(one, other) for one in expected for other in given)


def _only(headers: MultiMapping[str], name: str) -> str:
    """The header's value; empty where it is missing or given twice."""
    values = list(headers.getall(name, ()))
    return values[0] if len(values) == 1 else ""
