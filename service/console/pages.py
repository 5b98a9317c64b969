"""The console's pages and forms. Each action is one call of an SQL function, under the operator's name."""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from importlib import resources
from typing import TypeAlias

import structlog
from aiohttp import hdrs, web

from service.console import access, render
from service.console.access import Access, Operator
from service.console.watcher import Watcher
from service.database import RejectedError, UnavailableError
from service.operations import PAGE, LookSession, OperatorSession
from service.settings import Settings

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser would not say where a form comes from
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STATIC = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
BULK = 1000
"""Dead letters that one click retries at most."""
NOTE = 500
"""Characters of a note at most."""
STREAMS = 200
"""Pages that are live at once; a further one is answered 503."""
SLOW = 10.0
"""Seconds in which a browser has to take what it is sent."""
SETTLED = 1.0
"""Seconds that a retried event has to be applied in, for the page to show what became of it."""

DONE = {
    "retried": "It is back in the queue.",
    "reassigned": "It is back in the queue, for the other invoice.",
    "dismissed": "It is dismissed. It can still be retried.",
    "bulk": "{count} of them are back in the queue.",
}
REFUSED = {
    "PW001": "There is no such invoice. Insert it first, or give the id of another.",
    "42501": "OPERATOR_DATABASE_URL needs a login that is a member of the role <database>_<schema>_operator.",
    "PW008": "It is not open any more, or is no event that could be applied. Go back and look at it again.",
}
"""What the SQL functions raise, and the way out."""

Page: TypeAlias = Callable[[web.Request, Operator], Awaitable[web.StreamResponse]]

_log = structlog.get_logger()


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request is answered with a page that says why not, and what to do."""

    def __init__(self, status: int, title: str, text: str):
        super().__init__(text)
        self.status = status
        self.title = title


class Console:
    """The pages, and the two connections behind them: one for what is asked, one that watches.

    `local_operator` is who acts from this machine itself where there are no OPERATOR_TOKENS; None: nobody.
    """

    def __init__(self, settings: Settings, local_operator: str | None):
        url = settings.required_operator_database_url
        self._access = Access(settings.operator_tokens, local_operator)
        self._session = LookSession(url, "payment_webhooks console")
        self._lock = asyncio.Lock()
        self._watcher = Watcher(
            url, settings.poll_interval, lambda status: _server_sent(render.page("live.html", status=status))
        )
        self._streams = 0

    def routes(self) -> list[web.RouteDef]:
        """What ADMIN_PORT serves."""
        pages: dict[str, Page] = {
            "/console": self._overview,
            "/console/events": self._events,
            "/console/dead": self._dead,
            "/console/dead/{id:[0-9]{1,18}}": self._letter,
            "/console/event/{id:[0-9]{1,18}}": self._event,
            "/console/invoice/{id:[0-9]{1,18}}": self._invoice,
            "/console/search": self._search,
            "/console/actions": self._actions,
        }
        forms: dict[str, Page] = {
            "/console/dead/{id:[0-9]{1,18}}/{action:retry|reassign|dismiss}": self._act,
            "/console/retry": self._retry_reason,
        }
        return [
            *(web.get(path, partial(self._answer, page), allow_head=False) for path, page in pages.items()),
            *(web.post(path, partial(self._answer, page)) for path, page in forms.items()),
            web.post("/console/sign-in", self._sign_in),
            web.post("/console/sign-out", partial(self._answer, self._sign_out)),
            web.get("/console/static/{name}", self._static),
        ]

    async def close(self) -> None:
        """End the streams, then leave the database."""
        await self._watcher.close()
        await self._session.close()

    @contextlib.asynccontextmanager
    async def _database(self) -> AsyncIterator[OperatorSession]:
        async with self._lock:
            yield self._session

    async def _answer(self, page: Page, request: web.Request) -> web.StreamResponse:
        """The page, or the one that says why not."""
        if (operator := self._access.operator(request)) is None:
            if self._access.by_token:
                return self._sign_in_page(request, request.path_qs if request.method == "GET" else "/console", 401)
            text = "It is open on this machine only, as http://127.0.0.1. Set OPERATOR_TOKENS to open it to others."
            return self._message(request, None, Refusal(403, "The console is closed", text))
        try:
            return await page(request, operator)
        except Refusal as refusal:
            return self._message(request, operator, refusal)
        except RejectedError as error:
            text = REFUSED.get(error.sqlstate or "", f"The database refused it ({error}). Its log says more.")
            return self._message(request, operator, Refusal(409, "Nothing was done", text))
        except UnavailableError as error:
            text = f"The database did not answer in time ({error}). Look again whether it was done, then try again."
            return self._message(request, operator, Refusal(503, "Not known", text))

    def _page(
        self, request: web.Request, operator: Operator | None, template: str, code: int = 200, **values: object
    ) -> web.Response:
        html = render.page(
            template,
            **{
                "operator": operator,
                "by_token": self._access.by_token,
                "path": request.path,
                "notice": DONE.get(request.query.get("done", ""), "").format(
                    count=re.sub("[^0-9]", "", request.query.get("count", ""))
                ),
            }
            | values,
        )
        return web.Response(text=html, content_type="text/html", status=code, headers=HEADERS)

    def _message(self, request: web.Request, operator: Operator | None, refusal: Refusal) -> web.Response:
        return self._page(
            request, operator, "message.html", refusal.status, title=refusal.title, text=str(refusal), notice=None
        )

    def _sign_in_page(self, request: web.Request, to: str, status: int, error: str | None = None) -> web.Response:
        return self._page(request, None, "sign_in.html", status, next=to, error=error)

    async def _sign_in(self, request: web.Request) -> web.Response:
        if not access.is_same_origin(request):
            return self._sign_in_page(request, "/console", 403, "Sign in on this page itself.")
        form = await _form(request)
        to = form.get("next", "")
        if not re.fullmatch(r"/console([/?][\w/?&=%.~+-]*)?", to, re.ASCII):
            to = "/console"
        if wait := math.ceil(self._access.wait(request)):
            response = self._sign_in_page(request, to, 429, f"Too many tries. Try again in {wait} seconds.")
            response.headers[hdrs.RETRY_AFTER] = str(wait)
            return response
        if (found := self._access.sign_in(request, form.get("token", ""))) is None:
            _log.warning("sign_in_refused", address=request.remote)
            return self._sign_in_page(request, to, 401, "Nobody has this token. Is it whole, without name and colon?")
        operator, cookie = found
        _log.info("operator_signed_in", operator=operator, address=request.remote)
        response = _see(to)
        response.set_cookie(
            access.COOKIE,
            cookie,
            path="/console",
            max_age=access.SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )
        return response

    async def _sign_out(self, request: web.Request, operator: Operator) -> web.Response:
        await _checked(request, operator)
        self._access.sign_out(request)
        return _see("/console")

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        content = resources.files("service.console").joinpath("static", name).read_bytes()
        return web.Response(body=content, content_type=STATIC[name], headers=HEADERS)

    async def _overview(self, request: web.Request, operator: Operator) -> web.Response:
        return self._page(request, operator, "overview.html", status=await self._watcher.status())

    async def _events(self, request: web.Request, _: Operator) -> web.StreamResponse:
        """Server-sent events: the overview's parts whenever they were looked at, until the session ends."""
        if self._streams >= STREAMS:
            raise Refusal(503, "Too many", "Too many pages are live. Close some.")
        response = web.StreamResponse(headers=HEADERS | {hdrs.CONTENT_TYPE: "text/event-stream"})
        self._streams += 1
        try:
            await response.prepare(request)
            with self._watcher.watching():
                while (data := await self._watcher.next()) and self._access.operator(request):
                    async with asyncio.timeout(SLOW):
                        await response.write(data)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _dead(self, request: web.Request, operator: Operator) -> web.Response:
        reason = request.query.get("reason")
        after = _number(request.query.get("after", "0"), "after")
        async with self._database() as database:
            rows = await database.dead_letters(None if reason is None else _text(reason), after)
        return self._page(request, operator, "dead.html", rows=rows, reason=reason, after=after, size=PAGE, bulk=BULK)

    async def _letter(self, request: web.Request, operator: Operator) -> web.Response:
        async with self._database() as database:
            letter = await database.dead_letter(int(request.match_info["id"]))
            if letter is None:
                raise Refusal(404, "No such dead letter", "Look for it among the open ones.")
            body = await database.body(letter["delivery_id"]) if operator.may_act else None
        return self._page(request, operator, "letter.html", letter=letter, body=body)

    async def _event(self, request: web.Request, operator: Operator) -> web.Response:
        async with self._database() as database:
            event = await database.event(int(request.match_info["id"]))
            if event is None:
                raise Refusal(404, "No such event", "Search for it by its id or a reference.")
            body = await database.body(event["delivery_id"]) if operator.may_act else None
        return self._page(request, operator, "event.html", event=event, body=body)

    async def _invoice(self, request: web.Request, operator: Operator) -> web.Response:
        async with self._database() as database:
            invoice = await database.invoice(int(request.match_info["id"]))
        if invoice is None:
            raise Refusal(404, "No such invoice", "Search for it by its id or a reference.")
        return self._page(request, operator, "invoice.html", invoice=invoice)

    async def _search(self, request: web.Request, operator: Operator) -> web.Response:
        text = _text(request.query.get("q", "").strip())
        async with self._database() as database:
            events = await database.events(text)
            letters = await database.letters_named(text)
            invoices = await database.invoices(text)
        return self._page(request, operator, "search.html", q=text, events=events, letters=letters, invoices=invoices)

    async def _actions(self, request: web.Request, operator: Operator) -> web.Response:
        before = _number(request.query.get("before", "9" * 18), "before")
        async with self._database() as database:
            rows = await database.actions(before)
        return self._page(request, operator, "actions.html", rows=rows, size=PAGE)

    async def _act(self, request: web.Request, operator: Operator) -> web.Response:
        form = await _checked(request, operator)
        letter, note, name = int(request.match_info["id"]), _note(form), operator.name
        async with self._database() as database:
            match request.match_info["action"]:
                case "retry":
                    await database.retry([letter], name, note)
                    done = "retried"
                case "reassign":
                    await database.reassign(letter, _number(form.get("invoice", ""), "invoice"), name, note)
                    done = "reassigned"
                case _:
                    await database.dismiss(letter, name, note)
                    done = "dismissed"
        if done != "dismissed":
            await self._settle(letter)
        return _see(f"/console/dead/{letter}?done={done}")

    async def _settle(self, letter: int) -> None:
        """Give the listener a moment to apply the letter's event."""
        for _ in range(20):
            async with self._database() as database:
                found = await database.dead_letter(letter)
            if found is None or found["event"] is None or found["event"]["place"] != "queued":
                return
            await asyncio.sleep(SETTLED / 20)

    async def _retry_reason(self, request: web.Request, operator: Operator) -> web.Response:
        form = await _checked(request, operator)
        async with self._database() as database:
            count = await database.retry_reason(_text(form.get("reason", "")), BULK, operator.name, _note(form))
        return _see(f"/console/dead?done=bulk&count={count}")


def _server_sent(html: str) -> bytes:
    """A server-sent event."""
    return "".join(f"data: {line}\n" for line in html.split("\n")).encode() + b"\n"


def _see(address: str) -> web.Response:
    return web.Response(status=303, headers=HEADERS | {hdrs.LOCATION: address})


async def _form(request: web.Request) -> Mapping[str, str]:
    """The fields of a form. Raises HTTPBadRequest, HTTPUnsupportedMediaType.

    Of all charsets that a client may name, for each part of multipart data even, Python's decoders of some take
    quadratic time.
    """
    if request.content_type != "application/x-www-form-urlencoded" or (request.charset or "utf-8").lower() != "utf-8":
        raise web.HTTPUnsupportedMediaType
    try:
        return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    except (ValueError, LookupError):
        raise web.HTTPBadRequest from None


async def _checked(request: web.Request, operator: Operator) -> Mapping[str, str]:
    """The fields of an action's form. Raises Refusal where it is not ours, or the operator may only look."""
    form = await _form(request)
    if not access.is_ours(request, operator, form):
        raise Refusal(403, "Nothing was done", "The form is not of this session. Go back, reload the page, try again.")
    if not operator.may_act and request.path != "/console/sign-out":
        raise Refusal(403, "Nothing was done", "Your token may only look. Ask for one that may act.")
    return form


def _text(text: str) -> str:
    """Text as PostgreSQL takes it."""
    return text.replace("\0", "")


def _note(form: Mapping[str, str]) -> str | None:
    note = _text(form.get("note", "")).strip()
    if len(note) > NOTE:
        raise Refusal(400, "Nothing was done", f"note: at most {NOTE} characters. Shorten it.")
    return note or None


def _number(text: str, name: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text.strip(), re.ASCII):
        raise Refusal(400, "Not understood", f"{name}: expected a number of at most 18 digits.")
    return int(text)
