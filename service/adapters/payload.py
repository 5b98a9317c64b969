"""What a provider sent, read field by field: each is what it should be, or the reason why the event is of no use."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

from service.adapters import strict_json

MAX_TEXT = 255
"""Characters; a longer id is nobody's."""


class UnusableError(Exception):
    """What an authentic request reports cannot become a payment event.

    `reason` is the dead letter's, a word to list and retry by; the message says what is wrong, and where.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


_INFINITIES = {datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)}  # so asyncpg sends them


@lru_cache(maxsize=1024)
def _tokens(pointer: str) -> tuple[str, ...]:
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


class Payload:
    """A parsed body, or a part of it. Places are JSON pointers (RFC 6901); every method raises UnusableError."""

    __slots__ = ("at", "value")

    def __init__(self, value: Any, at: str = ""):
        self.value = value
        self.at = at

    @classmethod
    def of_json(cls, body: bytes) -> Self:
        """The object that a body is."""
        try:
            payload = cls(strict_json.parse(body))
        except strict_json.JsonError as error:
            raise UnusableError("unreadable", str(error)) from None
        if not isinstance(payload.value, dict):
            raise payload.unreadable("", "a JSON object")
        return payload

    def get(self, pointer: str) -> Any:
        """The value there, None where there is none."""
        value = self.value
        for token in _tokens(pointer):
            value = value.get(token) if type(value) is dict else _element(value, token)
        return value

    def first(self, pointers: Iterable[str]) -> str | None:
        """The first of these places that holds something; null and the empty text are nothing."""
        for pointer in pointers:
            if self.get(pointer) not in (None, ""):
                return pointer
        return None

    def part(self, pointer: str) -> Self:
        """What lies below `pointer`, as a payload of its own."""
        return type(self)(self.get(pointer), self.at + pointer)

    def parts(self, pointer: str) -> Iterable[Self]:
        """The elements of the array there."""
        values = self.get(pointer)
        if not isinstance(values, list):
            raise self.unreadable(pointer, "an array")
        return [type(self)(value, f"{self.at}{pointer}/{position}") for position, value in enumerate(values)]

    def optional_parts(self, pointer: str) -> Iterable[Self]:
        """As parts(); none where there is no array."""
        return () if self.get(pointer) is None else self.parts(pointer)

    def text(self, *pointers: str) -> str:
        """The text at the first of these places that holds something: 1 to 255 characters that PostgreSQL can store."""
        pointer = self._chosen(pointers)
        value = self.get(pointer)
        if not isinstance(value, str) or not is_storable(value):
            raise self.unreadable(pointer, f"text of 1 to {MAX_TEXT} characters")
        return value

    def identifier(self, *pointers: str) -> str:
        """As text(), of an id that may be written as an integer."""
        pointer = self._chosen(pointers)
        value = self.get(pointer)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(pointer)

    def optional_text(self, *pointers: str) -> str | None:
        """As text(); None where none of these places holds anything."""
        pointer = self.first(pointers)
        return None if pointer is None else self.text(pointer)

    def optional_identifier(self, *pointers: str) -> str | None:
        """As identifier(); None where none of these places holds anything."""
        pointer = self.first(pointers)
        return None if pointer is None else self.identifier(pointer)

    def flag(self, pointer: str) -> bool:
        """The true or false there."""
        value = self.get(pointer)
        if not isinstance(value, bool):
            raise self.unreadable(pointer, "true or false")
        return value

    def time(self, pointer: str) -> datetime | None:
        """The time there, in seconds since 1970 or as RFC 3339; None if it is no such thing: nothing rests on it."""
        value = self.get(pointer)
        try:
            return as_moment(
                datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(float(value), UTC)
            )
        except (TypeError, ValueError, OverflowError, OSError):
            return None

    def _chosen(self, pointers: Sequence[str]) -> str:
        return pointers[0] if len(pointers) == 1 else self.first(pointers) or pointers[0]

    def unreadable(self, pointer: str, expected: str) -> UnusableError:
        """The error for a value that is not what it should be."""
        return UnusableError("unreadable", f"{self.at}{pointer} is not {expected}")


def as_moment(time: datetime) -> datetime | None:
    """The time in UTC; None where it has no zone, or is out of PostgreSQL's or Python's range."""
    try:
        moment = time.astimezone(UTC) if time.tzinfo else None
    except OverflowError:
        return None
    return None if moment in _INFINITIES else moment


def put(body: dict[str, Any], pointer: str, value: object) -> dict[str, Any]:
    """The body, changed so that `value` stands at the pointer, within objects."""
    *path, last = _tokens(pointer)
    place = body
    for token in path:
        place = place.setdefault(token, {})
    place[last] = value
    return body


def _element(value: Any, token: str) -> Any:
    is_index = isinstance(value, list) and token.isascii() and token.isdigit() and len(token) < 6
    return value[int(token)] if is_index and int(token) < len(value) else None


def is_storable(text: str) -> bool:
    """Whether PostgreSQL takes the text as an id: no NUL, neither empty nor long."""
    return 0 < len(text) <= MAX_TEXT and "\0" not in text
