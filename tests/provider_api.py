"""A provider's API on this machine, to be asked by an adapter."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


class ProviderApi:
    """Answers by path: a dict as JSON, bytes as they are, an int as that status, None never, or a response."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[web.Request] = []
        self.under_way = 0
        self.most_under_way = 0
        self.pause = 0.0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await request.read()
            await asyncio.sleep(self.pause)
            answer = self.answers.get(request.raw_path, self.answers.get(request.raw_path.partition("?")[0], 404))
            if answer is None:
                await asyncio.sleep(60)
            if isinstance(answer, int):
                return web.json_response({"error": "no"}, status=answer)
            if isinstance(answer, dict):
                answer = json.dumps(answer).encode()
            return answer() if callable(answer) else web.Response(body=answer, content_type="application/json")
        finally:
            self.under_way -= 1

    @property
    def paths(self) -> list[str]:
        return [request.raw_path for request in self.asked]


@contextlib.asynccontextmanager
async def provider_api() -> AsyncIterator[ProviderApi]:
    api = ProviderApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    async with TestServer(app, handler_cancellation=True) as server:
        api.url = str(server.make_url("")).rstrip("/")
        yield api
