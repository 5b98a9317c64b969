"""The client of providers' APIs, against a server that answers well, badly, or never."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from service.adapters import api as api_module
from service.adapters.adapter import FetchError
from service.adapters.api import Api, ApiUrl
from service.adapters.payload import UnusableError
from tests.provider_api import ProviderApi, provider_api


@pytest.fixture
async def provider() -> AsyncIterator[ProviderApi]:
    async with provider_api() as provider:
        yield provider


@pytest.fixture
async def api(provider: ProviderApi) -> AsyncIterator[Api]:
    api = Api(provider.url, {"Authorization": "Bearer token"})
    yield api
    await api.close()


async def test_what_is_there_is_fetched_with_the_headers(provider: ProviderApi, api: Api) -> None:
    provider.answers["/v1/payments/PM%2F..%3F%231"] = {"amount": 5000}
    assert await api.get("v1", "payments", "PM/..?#1") == {"amount": 5000}
    [request] = provider.asked
    assert request.headers["Authorization"] == "Bearer token"


async def test_a_query_is_quoted(provider: ProviderApi, api: Api) -> None:
    provider.answers["/events"] = {}
    await api.get("events", query={"created_at[lt]": "2026-01-01T00:00:00+01:00", "payment": "a&b"})
    assert provider.asked[0].query == {"created_at[lt]": "2026-01-01T00:00:00+01:00", "payment": "a&b"}


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_an_id_cannot_climb(provider: ProviderApi, api: Api, name: str) -> None:
    with pytest.raises(UnusableError):
        await api.get("payments", name)
    assert provider.asked == []


@pytest.mark.parametrize("status", [404, 410])
async def test_what_the_provider_does_not_know_is_unusable(provider: ProviderApi, api: Api, status: int) -> None:
    provider.answers["/x"] = status
    with pytest.raises(UnusableError) as caught:
        await api.get("x")
    assert caught.value.reason == "not_found"


def broken(status: int = 200, **options: Any) -> Any:
    return lambda: web.Response(status=status, **options)


@pytest.mark.parametrize(
    "answer",
    [
        *(pytest.param(status, id=str(status)) for status in (201, 204, 400, 401, 403, 429, 500, 502, 503)),
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="junk"),
        pytest.param(b'{"a": 1, "a": 2}', id="duplicate keys"),
        pytest.param(b"[" * 100_000, id="nested deeply"),
        pytest.param(b"[1]", id="no object"),
        pytest.param(b'{"a": "' + b"x" * api_module.MAX_ANSWER + b'"}', id="too large"),
        pytest.param(broken(body=b"{}", headers={"Content-Encoding": "gzip"}, zlib_executor_size=1), id="not gzip"),
        *(
            pytest.param(broken(status, headers={"Location": "/elsewhere"}), id=f"redirect {status}")
            for status in (301, 302, 303, 307, 308)
        ),
    ],
)
async def test_any_other_answer_is_none(provider: ProviderApi, api: Api, answer: Any) -> None:
    provider.answers |= {"/x": answer, "/elsewhere": {"amount": 1}}
    if callable(answer) and answer().headers.get("Content-Encoding"):
        assert await api.get("x") == {}  # nothing is decompressed, whatever it says
        return
    with pytest.raises(FetchError):
        await api.get("x")
    assert provider.paths == ["/x"]


async def test_a_redirect_leads_to_no_other_host(provider: ProviderApi, api: Api) -> None:
    async with provider_api() as other:
        provider.answers["/x"] = broken(302, headers={"Location": other.url + "/x"})
        with pytest.raises(FetchError):
            await api.get("x")
        assert other.asked == []


async def test_an_answer_that_never_comes_is_given_up(
    provider: ProviderApi, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "TIMEOUT", 0.1)
    provider.answers["/x"] = None
    with pytest.raises(FetchError, match="TimeoutError"):
        await asyncio.wait_for(api.get("x"), 2)


async def test_an_api_that_is_not_there_gives_no_answer() -> None:
    api = Api("http://127.0.0.1:1")
    with pytest.raises(FetchError):
        await api.get("x")
    await api.close()
    await Api("http://127.0.0.1:1").close()


async def test_only_so_many_questions_are_under_way(provider: ProviderApi, api: Api) -> None:
    provider.pause = 0.02
    provider.answers |= {f"/{n}": {} for n in range(100)}
    await asyncio.gather(*(api.get(str(n)) for n in range(100)))
    assert provider.most_under_way == api_module.AT_ONCE


async def test_an_answer_is_kept_if_allowed_for_a_while(
    provider: ProviderApi, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.answers["/x"] = {}
    for keep in (True, True, False):
        await api.get("x", keep=keep)
    assert len(provider.asked) == 2
    monkeypatch.setattr(api_module, "KEEP", -1.0)
    monkeypatch.setattr(api_module, "MAX_KEPT", 3)
    provider.answers |= {f"/{n}": {} for n in range(9)}
    for n in range(9):
        await api.get(str(n), keep=True)
    assert len(api._kept) <= 3
    before = len(provider.asked)
    await api.get("8", keep=True)  # kept for no time at all
    assert len(provider.asked) == before + 1


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "ftp://127.0.0.1",
        "https://",
        "api.example.com",
        "https://user@api.example.com",
        "https://api.example.com?x=1",
        "https://api.example.com#x",
        "https://api.exa mple.com/\n",
        "http://127.0.0.1.example.com",
        "http://localhost@example.com",
    ],
)
def test_a_url_that_leads_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ApiUrl).validate_python(url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/", "http://127.0.0.1:8080", "http://[::1]:1", "http://localhost"]
)
def test_https_and_this_machine_are_good(url: str) -> None:
    assert TypeAdapter(ApiUrl).validate_python(url) == url.rstrip("/")
