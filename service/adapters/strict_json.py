"""JSON as strictly as money needs it (RFC 8259, RFC 7493): UTF-8, no NaN, no key twice, bounded depth and digits."""

from typing import Any

import jiter


class JsonError(ValueError):
    """The bytes are not acceptable JSON; the message says why."""


def parse(body: bytes) -> Any:
    """The value of `body`. Every number is exact: an int, or a Decimal where it has a point or an exponent.

    Raises JsonError.
    """
    try:
        return jiter.from_json(
            body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys", float_mode="decimal"
        )
    except ValueError as error:
        raise JsonError(str(error)) from None
