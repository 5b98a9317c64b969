"""The console in a real browser: Debian's Chromium, headless.

PAYMENTS_CHROMIUM names another one, and makes its absence a failure; PAYMENTS_SCREENSHOTS=tests/screenshots writes
README's pictures.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped] # it has no py.typed
from playwright.async_api import Page, ViewportSize, async_playwright, expect

from service.database import DeadLetter, PaymentEvent, Session
from tests import calls
from tests.conftest import Connection, needs
from tests.console import ALICE, BOB, opened, operator_url
from tests.test_listener import listening

CHROMIUM = os.environ.get("PAYMENTS_CHROMIUM") or shutil.which("chromium")
SCREENSHOTS = os.environ.get("PAYMENTS_SCREENSHOTS")
PICTURE = ViewportSize(width=1000, height=760)
PHONE = ViewportSize(width=360, height=740)
HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>\u202e"
BODY = (
    b'{\n  "id": "evt_3Qk",\n  "type": "payment_intent.succeeded",\n  "amount_received": 48000,\n  "currency": "eur"\n}'
)

expect.set_options(timeout=20_000)  # ms; a look that takes long on a busy machine is repeated later

pytestmark = needs(CHROMIUM, "no chromium here (Debian: apt-get install chromium)")


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page in which nothing may go wrong unseen: no script error, no refused resource, no dialog."""
    wrong: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(viewport=PICTURE)
        page = await context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("console", lambda said: wrong.append(said.text) if said.type in {"error", "warning"} else None)
        yield page
        await browser.close()
    expected = ("status of 401", "status of 404")  # the sign-in page, and what is not there
    assert [one for one in wrong if not any(status in one for status in expected)] == []


@pytest.fixture
async def console(database_url: str, db: Connection) -> AsyncIterator[str]:
    """The address of a console over a business that has seen some days."""
    await db.execute(
        "insert into invoices (id, amount) select n, 10000 * (n % 7 + 1) from generate_series(1001, 1040) n"
    )
    await db.execute("insert into invoice_references select 'stripe', 'INV-2026-' || id, id from invoices")
    events = [
        PaymentEvent(f"evt_3Q{n}", 1001 + n % 40, 2500 * (n % 4 + 1), connection="stripe", reference=f"pi_3Q{n}")
        for n in range(60)
    ]
    events += [PaymentEvent(f"settled-{day}", 1012, 12_500, reference=f"settled-{day}") for day in range(6)]
    events += [
        PaymentEvent("refund-1", 1012, 20_000, "refund", reference="refund-1"),
        PaymentEvent("evt_3Qk", 1030, 48_000, currency="EUR", connection="stripe", body=BODY, reference="pi_3Qk"),
        PaymentEvent("evt_3Qm", 1031, 9900, currency="EUR", connection="stripe", body=BODY),
        PaymentEvent("evt_3Qn", None, 9900, connection="stripe", invoice_reference="INV-2026-2001"),
    ]
    async with Session(database_url, "test") as session:
        await session.apply(events, park=True)
        await session.bury([DeadLetter("adyen", "bad_amount", "the amount 'ten' is not an integer", b"{}", "", "8836")])
    async with opened(await operator_url(database_url, db)) as one:
        yield one.url


async def sign_in(page: Page, url: str, token: str = ALICE, path: str = "/console") -> None:
    await page.goto(url + path)
    await page.get_by_label("Your operator token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("navigation", name="Console")).to_be_visible()


async def picture(page: Page, name: str, *, whole: bool = False) -> None:
    """Write a screenshot for README, where asked to."""
    if SCREENSHOTS:
        await page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=whole)


async def test_an_operator_sees_a_payment_arrive_and_mends_a_dead_letter(
    page: Page, console: str, database_url: str, db: Connection
) -> None:
    async with listening(database_url):
        await sign_in(page, console)
        await expect(page.locator("#connection")).to_have_text("Live")
        await expect(page.get_by_role("table", name="Newest events")).not_to_contain_text("live-1")

        await calls.enqueue(db, calls.Event("live-1", 1012, 30_000))
        arrived = page.get_by_role("table", name="Newest events").get_by_role("row").filter(has_text="live-1")
        await expect(arrived).to_contain_text("posted")
        await expect(page.locator("#listeners")).to_contain_text("on watch")
        await picture(page, "overview")

        await page.get_by_role("link", name="currency_mismatch").click()
        await page.get_by_role("row").filter(has_text="evt_3Qk").get_by_role("link").first.click()
        assert await page.get_by_label("Body of the request").inner_text() == BODY.decode()
        await expect(page.get_by_role("main")).to_contain_text("currency_mismatch")
        await picture(page, "dead_letter", whole=True)

        await db.execute("delete from invoice_references where invoice_id = 1030")
        await db.execute("insert into invoices (id, amount, currency) values (2030, 48000, 'EUR')")
        form = page.locator("form").filter(has_text="Reassign")
        await form.get_by_label("Invoice's id").fill("2030")
        await form.get_by_label("Note").fill("billed again in EUR")
        await form.get_by_role("button").click()
        await expect(page.get_by_role("status").first).to_have_text("It is back in the queue, for the other invoice.")
        await expect(page.get_by_role("main")).to_contain_text("posted")
        await expect(page.get_by_role("table", name="What was done about it")).to_contain_text("billed again in EUR")
        assert await calls.balance(db, 2030) == ("paid", 48_000, 0, 0)


async def test_a_retry_applies_the_event_once_its_cause_is_mended(
    page: Page, console: str, database_url: str, db: Connection
) -> None:
    await db.execute("insert into invoices (id, amount) values (3000, 9900)")
    await calls.apply(db, calls.Event("late", 3000, 9900, currency="EUR"), park=True)
    async with listening(database_url):
        await sign_in(page, console, path="/console/search?q=late")
        await page.get_by_role("main").get_by_role("link", name="late").click()
        await page.get_by_role("table", name="Dead letters about it").get_by_role("link").click()
        await db.execute("update invoices set currency = 'EUR' where id = 3000")
        form = page.locator("form").filter(has_text="Once its cause is mended")
        await form.get_by_label("Note").fill("the invoice was in EUR")
        await form.get_by_role("button").click()
        await expect(page.get_by_role("main")).to_contain_text("posted")
        await page.get_by_role("link", name="3000").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Invoice 3000")
        await expect(page.get_by_role("main")).to_contain_text("paid")
        await expect(page.get_by_role("img", name="Running balance")).to_be_visible()
    done = await calls.rows_of(db, "select actor, action, note from operator_actions")
    assert done == [("alice", "retried", "the invoice was in EUR")]


async def test_an_accessibility_checker_finds_nothing_serious_light_or_dark_wide_or_narrow(
    page: Page, console: str, database_url: str
) -> None:
    async with Session(database_url, "test") as session:
        hostile = PaymentEvent(HOSTILE, 1030, 100, connection="stripe", currency="EUR", body=HOSTILE.encode())
        await session.apply([hostile], park=True)
    await page.goto(console + "/console")
    await found(page)
    await sign_in(page, console)
    paths = ("", "/dead", "/dead/1", "/dead/4", "/event/71", "/invoice/1012", "/search?q=evt_3Qk", "/actions")
    for path in (*paths, "/event/999"):
        response = await page.goto(f"{console}/console{path}", wait_until="domcontentloaded")
        assert response is not None
        assert response.status == (200 if path in paths else 404), path
        await found(page)
        if path == "/invoice/1012":
            await page.emulate_media(color_scheme="light")
            await picture(page, "invoice")


async def found(page: Page) -> None:
    """What axe-core finds here in both colour schemes is at most moderate, and a phone need not scroll sideways."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        results = await Axe().run(page)
        assert [
            (page.url, scheme, one["id"], [node["html"] for node in one["nodes"]])
            for one in results.response["violations"]
            if one["impact"] in {"serious", "critical"}
        ] == []
    await page.set_viewport_size(PHONE)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url
    await page.set_viewport_size(PICTURE)


async def test_it_works_by_keyboard_alone(page: Page, console: str) -> None:
    await page.goto(console + "/console")
    await expect(page.get_by_label("Your operator token")).to_be_focused()
    await page.keyboard.type(BOB)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Overview")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="look at them")).to_be_focused()
    await asyncio.sleep(3)  # the parts that are replaced meanwhile do not take the focus away
    await expect(page.get_by_role("link", name="look at them")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Dead letters")


async def test_it_says_when_it_is_not_live_any_more(page: Page, console: str) -> None:
    await sign_in(page, console)
    await expect(page.locator("#connection")).to_have_text("Live")
    other = await page.context.new_page()
    await other.goto(console + "/console/dead")
    await other.get_by_role("button", name="Sign out").click()
    await expect(page.locator("#connection")).to_have_text("Not live: reload the page")
