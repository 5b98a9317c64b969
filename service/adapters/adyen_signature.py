"""Adyen's signature of one item.

https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures.
"""

import re
from collections.abc import Iterable
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from service.adapters.adapter import Secrets
from service.adapters.payload import Payload
from service.adapters.signatures import is_any_of, mac

SIGNED = ("pspReference", "originalReference", "merchantAccountCode", "amount/currency", "eventCode", "success")
"""Signed beside merchantReference and the amount; who has an item can change all the rest, such as paymentMethod."""


def _in_hex(keys: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch("([0-9A-Fa-f]{2}){16,}", key) for key in keys):
        raise ValueError("expected HMAC keys in hex digits, as the Customer Area shows them")
    return keys


HexKeys: TypeAlias = Annotated[Secrets, AfterValidator(_in_hex)]


def is_signed(item: Payload, keys: Iterable[str]) -> bool:
    """Whether one of `keys` signed the item. Raises UnusableError."""
    given = item.text("/additionalData/hmacSignature")
    return is_any_of([given], (signature(key, item) for key in keys))


def signature(key: str, item: Payload) -> str:
    """The signature of an item. Raises UnusableError.

    Nothing is escaped in what is signed: if more than the merchantReference held a colon, or the amount were not an
    integer, different items would have the same signature.
    """
    amount, reference = item.get("/amount/value"), item.get("/merchantReference")
    others = [item.get(f"/{field}") for field in SIGNED]
    plain = [text or "" for text in others if text is None or (isinstance(text, str) and ":" not in text)]
    whole = amount is None or (isinstance(amount, int) and not isinstance(amount, bool))
    if len(plain) < len(others) or not whole or not isinstance(reference, str | None):
        raise item.unreadable("", "what Adyen signs")
    psp, original, account, currency, code, success = plain
    value = "" if amount is None else amount
    message = f"{psp}:{original}:{account}:{reference or ''}:{value}:{currency}:{code}:{success}"
    return mac(bytes.fromhex(key), message.encode("utf-8", "surrogatepass"), encoding="base64")
