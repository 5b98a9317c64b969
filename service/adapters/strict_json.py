"""JSON as strictly as money needs it (RFC 8259, RFC 7493): UTF-8, no NaN, no key twice, bounded depth and digits."""

import json
from typing import Any, NoReturn


class JsonError(ValueError):
    """The bytes are not acceptable JSON; the message says why."""


def parse(body: bytes) -> Any:
    """The value of `body`. Integers are exact; a number with a point or an exponent is a float, which no amount may be.

    Raises JsonError.
    """
    try:
        return _decoder.decode(body.decode())
    except UnicodeDecodeError:
        raise JsonError("the body is not UTF-8") from None
    except RecursionError:
        raise JsonError("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonError(str(error)) from None
    except JsonError:
        raise
    except ValueError:  # of int(), past 4,300 digits
        raise JsonError("a number has too many digits") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise JsonError("an object has the same key twice")
    return value


def _refuse(constant: str) -> NoReturn:
    raise JsonError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
