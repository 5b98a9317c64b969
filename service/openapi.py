"""The OpenAPI 3.1 document of the public endpoints, made of the types that validate and answer."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from service.adapters.adyen import Adyen
from service.adapters.direct import PaymentRequest
from service.database import Result
from service.problems import ProblemDetails

PLAIN_ENDPOINTS = {
    "/webhooks-sync/payments": "Apply a payment event now and see what it made of its invoice.",
    "/webhooks/payments": "Store a payment event; a listener applies it within milliseconds.",
}
PROVIDER_ENDPOINTS = {
    "/webhooks-sync/{connection}": "A provider's own webhook, applied now; queued where that cannot be.",
    "/webhooks/{connection}": "A provider's own webhook, stored; a listener applies it within milliseconds.",
}
ANSWERS = {
    "200": "Applied, or a duplicate of what is applied or queued already. Committed.",
    "202": "Stored, and waits: for the listener, or for the movement that it is about. Committed.",
    "400": "Not a plain request, not JSON, or a field of the wrong type: errors names each.",
    "401": "The signature does not cover this body, is too old, or is missing.",
    "404": "There is no such invoice.",
    "408": "The body took too long.",
    "409": "Other content under a known event_id or reference, or an event that is dead. Nothing was applied.",
    "413": "The body is too large.",
    "415": "Not application/json, or compressed.",
    "422": "An amount out of its range, or another currency than the invoice's.",
    "500": "A trigger of the database's owner raised; nothing was stored.",
    "503": "Not committed as far as we know. Send it again after Retry-After seconds: it is applied once.",
}
CONNECTION = {"type": "string", "pattern": "^[a-z0-9_-]{1,63}$", "examples": ["stripe"]}
PROVIDER_ANSWERS = {
    "200": "Authentic and stored, whatever it is: what became of each event in it. Committed.",
    "400": "Not a plain request.",
    "401": "The signature is missing, too old, or does not cover these very bytes.",
    "404": "No such connection is configured.",
    "408": "The body took too long.",
    "413": "The body is too large.",
    "415": "Compressed.",
    "503": "Not committed as far as we know. It is applied once, however often it is sent.",
}


CHALLENGE_ANSWERS = {
    "400": "Not a challenge of the connection's provider, or not a plain request.",
    "404": "No such connection is configured.",
    "405": "The connection's provider sends no challenges.",
}


class ProviderReport(BaseModel):
    """What became of the events of a provider's webhook; none of them, where no money moved."""

    outcomes: Sequence[str] = Field(
        description="applied, queued, duplicate, parked, conflict, dead, linked, or the reason of a dead letter."
    )


def document(*, signed: bool) -> dict[str, Any]:
    """The document; `signed` says whether requests have to carry a Standard Webhooks signature."""
    optional: dict[str, Any] = {
        name: (hint, ...) if name in {"event_id", "outcome"} else (hint, None)
        for name, hint in get_type_hints(Result).items()
    }
    about = "What became of the event, and, where it was applied at once, its invoice now (minor units)."
    result = create_model("PaymentResult", __doc__=about, **optional)
    _, schemas = models_json_schema(
        [
            (PaymentRequest, "validation"),
            (result, "serialization"),
            (ProviderReport, "serialization"),
            (ProblemDetails, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Payment webhooks",
            "version": version("payment-webhooks"),
            "description": "Each payment event reaches its invoice exactly once. A 2xx is sent after its commit.",
        },
        "paths": {path: {"post": _operation(path, summary, signed=signed)} for path, summary in PLAIN_ENDPOINTS.items()}
        | {
            path: {"get": _challenge_operation(path), "post": _provider_operation(path, summary)}
            for path, summary in PROVIDER_ENDPOINTS.items()
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(path: str, summary: str, *, signed: bool) -> dict[str, Any]:
    headers = [
        {"name": f"webhook-{name}", "in": "header", "required": True, "schema": {"type": "string"}}
        for name in ("id", "timestamp", "signature")
    ]
    return {
        "operationId": path.strip("/").replace("/", "-"),
        "summary": summary,
        "parameters": headers if signed else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("PaymentRequest")}}},
        "responses": {status: _answer(status, text, "PaymentResult") for status, text in ANSWERS.items()},
    }


def _provider_operation(path: str, summary: str) -> dict[str, Any]:
    answers = {status: _answer(status, text, "ProviderReport") for status, text in PROVIDER_ANSWERS.items()}
    answers["200"]["content"]["text/plain"] = {"schema": {"const": Adyen.answer.decode()}}
    return {
        "operationId": _provider_operation_id(path),
        "summary": summary,
        "parameters": [{"name": "connection", "in": "path", "required": True, "schema": CONNECTION}],
        "requestBody": {"required": True, "content": {"*/*": {"schema": {"description": "As the provider sends it."}}}},
        "responses": answers,
    }


def _challenge_operation(path: str) -> dict[str, Any]:
    query = {"type": "object", "additionalProperties": {"type": "string"}}
    proof = {"description": "The proof.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "operationId": f"{_provider_operation_id(path)}-challenge",
        "summary": "A provider's challenge (Braintree's): the proof that the endpoint is ours.",
        "parameters": [
            {"name": "connection", "in": "path", "required": True, "schema": CONNECTION},
            {"name": "challenge", "in": "query", "description": "As the provider sends it.", "schema": query},
        ],
        "responses": {"200": proof} | {status: _answer(status, text, "") for status, text in CHALLENGE_ANSWERS.items()},
    }


def _provider_operation_id(path: str) -> str:
    return path.partition("/{")[0].strip("/")


def _answer(status: str, text: str, result: str) -> dict[str, Any]:
    good = status < "300"
    content_type = "application/json" if good else "application/problem+json"
    schema = result if good else "ProblemDetails"
    answer: dict[str, Any] = {"description": text, "content": {content_type: {"schema": _ref(schema)}}}
    if status == "503":
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return answer


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
