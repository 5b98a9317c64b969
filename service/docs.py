"""`/openapi.json` and `/docs`: the OpenAPI document, and the same as one page that needs no script and no network."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from aiohttp import web

from service import openapi

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { padding: .8rem; border: 1px solid #8886; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }
"""


def routes(url: str, *, signed: bool) -> list[web.RouteDef]:
    """The two routes; `url` is where the public endpoints are, `signed` whether they want signatures."""
    document = openapi.document(signed=signed)
    html = page(document, url, signed=signed)

    async def openapi_json(_: web.Request) -> web.Response:
        return web.json_response(document)

    async def docs(_: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
        return web.Response(text=html, content_type="text/html", headers=policy)

    return [web.get("/openapi.json", openapi_json), web.get("/docs", docs)]


def page(document: dict[str, Any], url: str, *, signed: bool) -> str:
    """The document as HTML."""
    schemas = document["components"]["schemas"]
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1><p>{escape(info['description'])}",
        'The same for machines: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    example = {name: field["examples"][0] for name, field in schemas["PaymentRequest"]["properties"].items()
               if name in schemas["PaymentRequest"]["required"]}  # fmt: skip
    for path, operations in document["paths"].items():
        curl = [f"curl {url}{path}", "-H 'Content-Type: application/json'", f"-d '{json.dumps(example)}'"]
        if path in openapi.PROVIDER_ENDPOINTS:
            curl = ["python -m service send", "--queue" * (path == "/webhooks/{connection}"), "stripe"]
        elif signed:
            curl[2:2] = [f"-H 'webhook-{name}: …'" for name in ("id", "timestamp", "signature")]
        for method, operation in operations.items():
            parts += [
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>",
                f"<pre>{escape(' '.join(filter(None, curl)))}</pre>" if method == "post" else "",
                _table(("Status", "Meaning"), [(s, a["description"]) for s, a in operation["responses"].items()]),
            ]
    for name, schema in schemas.items():
        rows = [
            (
                field,
                _type(shape) + ("" if field in schema.get("required", ()) else ", optional"),
                shape.get("description", ""),
            )
            for field, shape in schema["properties"].items()
        ]
        parts += [
            f"<h2>{escape(name)}</h2><p>{escape(schema.get('description', ''))}</p>",
            _table(("Field", "Type", ""), rows),
        ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _type(shape: dict[str, Any]) -> str:
    """A schema's type in words; null is left out, optional says it."""
    if "enum" in shape:
        return " | ".join(shape["enum"])
    if "anyOf" in shape:
        return " | ".join(_type(one) for one in shape["anyOf"] if one.get("type") != "null")
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    if shape["type"] == "array":
        return f"array of {_type(shape['items'])}"
    return str(shape.get("format", shape["type"]))


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{cells}</table>"
