"""XML as strictly as money needs it: UTF-8, no document type (so no entities), bounded depth."""

from typing import Any, NoReturn
from xml.parsers import expat

MAX_DEPTH = 32


class XmlError(ValueError):
    """The bytes are not acceptable XML; the message says why."""


def parse(body: bytes) -> dict[str, Any]:
    """The document as nested dictionaries: elements by their names, text as text.

    As in XML that Ruby on Rails writes, type="array" makes a list and nil="true" a None. An element that stands twice
    elsewhere becomes a list too, so that nobody takes one of them for the only one. Raises XmlError.
    """
    stack: list[_Element] = [_Element({})]
    parser = expat.ParserCreate("UTF-8")

    def start(name: str, attributes: dict[str, str]) -> None:  # noqa: ARG001 - the end has the name too
        if len(stack) > MAX_DEPTH:
            raise XmlError("the XML is nested too deeply")
        stack.append(_Element(attributes))

    def end(name: str) -> None:
        value = stack.pop().value()
        stack[-1].children.append((name, value))

    def text(part: str) -> None:
        stack[-1].texts.append(part)

    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise XmlError(f"the XML is malformed: {error}") from None
    return dict(stack[0].children)


class _Element:
    def __init__(self, attributes: dict[str, str]):
        self.attributes = attributes
        self.children: list[tuple[str, Any]] = []
        self.texts: list[str] = []

    def value(self) -> Any:
        if self.attributes.get("nil") == "true":
            return None
        if self.attributes.get("type") == "array":
            return [child for _, child in self.children]
        if not self.children:
            return "".join(self.texts)
        values: dict[str, list[Any]] = {}
        for name, child in self.children:
            values.setdefault(name, []).append(child)
        return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _refuse(*_: object) -> NoReturn:
    raise XmlError("the XML declares a document type")
