"""The OpenAPI document holds what the server does: schemathesis draws requests from it and checks each answer."""

import asyncio
import itertools
import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service import openapi
from tests.calls import add_invoice, assert_consistent, drain
from tests.conftest import Connection
from tests.http_service import serving
from tests.providers import example

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


async def test_no_request_drawn_from_the_document_gives_a_5xx_or_an_undocumented_answer(
    database_url: str, db: Connection
) -> None:
    for invoice in (1, 2, 3):
        await add_invoice(db, invoice)
    statuses = set()
    async with serving(database_url, connections=(example("stripe"), example("braintree"))) as client:
        schema = schemathesis.openapi.from_dict(openapi.document(signed=False))

        def send(operation: Any, mode: schemathesis.GenerationMode) -> None:
            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=25 if operation.method == "get" else 150,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def run(case: Case[Any]) -> None:
                if isinstance(case.body, dict) and isinstance(number := case.body.get("invoice_id"), int):
                    case.body["invoice_id"] = number % 5  # most are about an invoice that exists
                if case.path_parameters and len(case.path_parameters["connection"]) % 2:
                    case.path_parameters["connection"] = "braintree" if case.method == "GET" else "stripe"
                if case.method == "GET" and case.query and len(case.query) % 2:
                    case.query = {"bt_challenge": "0123456789" * 2}
                response = case.call(base_url=client.url)
                statuses.add((case.method, response.status_code))
                case.validate_response(response, checks=CHECKS)

            run()

        for path in (*openapi.PLAIN_ENDPOINTS, *openapi.PROVIDER_ENDPOINTS):
            for method, mode in itertools.product(schema[path], schemathesis.GenerationMode):
                await asyncio.to_thread(send, schema[path][method], mode)
    assert statuses >= {*(("POST", n) for n in (200, 400, 401, 404)), *(("GET", n) for n in (200, 400, 404))}
    await drain(db)
    await assert_consistent(db)


async def test_adyens_answer_is_in_the_document_too(database_url: str) -> None:
    adyen = example("adyen")
    async with serving(database_url, connections=(adyen,)) as client:
        operation = schemathesis.openapi.from_dict(openapi.document(signed=False))["/webhooks/{connection}"]["POST"]
        case = operation.Case(
            path_parameters={"connection": adyen.connection},
            body=json.loads(adyen.sample("1", 100, "EUR")),
            media_type="application/json",
        )
        response = await asyncio.to_thread(case.call, base_url=client.url)
        assert (response.status_code, response.text) == (200, "[accepted]")
        case.validate_response(response, checks=CHECKS)
