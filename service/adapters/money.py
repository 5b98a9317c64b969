"""Amounts as providers write them, into minor units as ISO 4217 counts them. Exact, or refused; never a float.

How many decimals a provider's amount has is a fact of the provider and the currency, not of the currency alone: 500 of
UGX is 5 shillings at Stripe and 500 at Adyen. The ledger counts as ISO 4217 does, so that both pay the same invoice.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import iso4217

from service.adapters.payload import UnusableError

MAX_AMOUNT = 10**15
"""Minor units; the database's limit for one event."""
_DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,10})?", re.ASCII)
_ZERO = re.compile(r"0+(\.0+)?", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,16}", re.ASCII)


class Money(NamedTuple):
    """An amount in minor units (ISO 4217), and its currency."""

    amount: int
    currency: str


def from_minor(value: object, currency: object, exponents: Mapping[str, int] | None = None) -> Money:
    """The money of an integer of the provider's smallest units.

    `exponents` are the currencies in which the provider counts other decimals than ISO 4217. Raises UnusableError.
    """
    code = _code(currency)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnusableError("bad_amount", f"the amount {_shown(value)} is not an integer in minor units")
    shift = _exponent(code) - exponents.get(code, _exponent(code)) if exponents else 0
    return _checked(Decimal(value).scaleb(shift) if shift else value, code)


def from_minor_text(value: object, currency: object, exponents: Mapping[str, int] | None = None) -> Money:
    """As from_minor(), of an integer that the provider writes as text. Raises UnusableError."""
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise UnusableError("bad_amount", f"the amount {_shown(value)} is not an integer in minor units, as text")
    return from_minor(int(value), currency, exponents)


def from_decimal(value: object, currency: object) -> Money:
    """The money of a decimal text such as "10.50". Raises UnusableError."""
    code = _code(currency)
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise UnusableError("bad_amount", f"the amount {_shown(value)} is not a decimal text such as 10.50")
    return _checked(Decimal(value).scaleb(_exponent(code)), code)


def from_number(value: object, currency: object) -> Money:
    """The money of a JSON number such as 10.5, exact as strict_json.parse() has it. Raises UnusableError."""
    if type(value) is not int and not isinstance(value, Decimal):
        raise UnusableError("bad_amount", f"the amount {_shown(value)} is not a number such as 10.5")
    text = f"{value:f}" if isinstance(value, Decimal) and abs(value.adjusted()) < 20 else str(value)
    return from_decimal(text, currency)


def is_zero(value: object) -> bool:
    """Whether an amount is nothing, as 0, "0" or "0.00": what reports it moved no money."""
    return (type(value) is int and value == 0) or (isinstance(value, str) and _ZERO.fullmatch(value) is not None)


def to_decimal(amount: int, currency: str) -> str:
    """The decimal text of an amount in minor units, such as "10.50". Raises UnusableError."""
    return f"{Decimal(amount).scaleb(-_exponent(_code(currency))):f}"


def _checked(minor: Decimal | int, code: str) -> Money:
    if minor != int(minor):
        raise UnusableError("bad_amount", f"the amount {_major(minor, code)} has more decimals than {code} has")
    if not 0 < minor <= MAX_AMOUNT:
        raise UnusableError(
            "bad_amount", f"the amount {_major(minor, code)} {code} is not positive, or is over 10^15 minor units"
        )
    return Money(int(minor), code)


def _major(minor: Decimal | int, code: str) -> Decimal:
    return Decimal(minor).scaleb(-_exponent(code))


def _code(currency: object) -> str:
    if not isinstance(currency, str) or len(currency) != 3 or not currency.isascii():
        raise UnusableError("unknown_currency", f"{_shown(currency)} is no currency of ISO 4217")
    code = currency.upper()
    _exponent(code)
    return code


@lru_cache(maxsize=512)
def _exponent(code: str) -> int:
    """The decimals that ISO 4217 gives a currency."""
    try:
        exponent = iso4217.Currency(code).exponent
    except ValueError:
        exponent = None
    if exponent is None:
        raise UnusableError("unknown_currency", f"{_shown(code)} is no currency of ISO 4217 with minor units")
    return int(exponent)


def _shown(value: object) -> str:
    return (str(value) if isinstance(value, Decimal) else repr(value))[:40]
