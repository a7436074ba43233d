"""The console in a real browser, on a real gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.config.problems import Problem
from tests.console.browser import Page, browser
from tests.console.support import CONFIG, SECRET, Clients, watched

HOSTILE = "<script>alert(1)"
TAB, ENTER, SPACE, ESCAPE = "\ue004", "\ue007", " ", "\ue00c"
KEPT = """
  const wide = document.documentElement.scrollWidth, seen = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('main *, dialog[open] *')].filter((each) => {
    const box = each.getBoundingClientRect();
    return box.width && box.right > seen + 1 && !each.closest('pre, .row, .attention summary');
  }).map((each) => each.tagName + '.' + each.className);
  return [wide - seen, out];
"""
SHIFTS = """
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) if (!each.hadRecentInput) window.shifts.push([each.value, each.sources.map((s) => [s.node?.id || s.node?.className || s.node?.nodeName, s.previousRect.top, s.currentRect.top, s.currentRect.left - s.previousRect.left])]);
  }).observe({ type: 'layout-shift' });
"""


@asynccontextmanager
async def looking(config: str = CONFIG, *, calls: int = 0) -> AsyncIterator[tuple[Clients, Page]]:
    """A page that is live. At its end the browser has complained about nothing."""
    async with watched(config) as clients, browser() as page:
        for _ in range(calls):
            assert (await clients.call())[0] == 200
        await page.size(1600)
        await page.open(clients.admin + "/console")
        await live(page)
        yield clients, page
        assert await page.complaints() == []


async def live(page: Page) -> None:
    await page.until("return document.getElementById('live').innerText.includes('live')")
    await page.until("return document.querySelectorAll('#tiers article').length")


async def burst(clients: Clients, calls: int) -> None:
    """More at once than the owned slots: some are spilled."""
    answers = await asyncio.gather(*(clients.call() for _ in range(calls)))
    assert {status for status, _ in answers} <= {200, 429}


async def test_numbers_on_the_page_are_those_of_the_metrics() -> None:
    async with looking() as (clients, page):
        await burst(clients, 5)
        total = await clients.metric("overspill_requests_total")
        assert total == 5
        await page.until("return Number(document.getElementById('tile-requests').dataset.value) === 5")
        spilled = await clients.metric("overspill_requests_total", backend="runpod")
        assert spilled > 0
        assert await page.value("#tile-spill") == pytest.approx(spilled / total)
        usd = await clients.metric("overspill_cost_usd_total", backend="runpod")
        served = await clients.metric("overspill_served_total", backend="runpod")
        assert await page.value("#usd-spill") == pytest.approx(usd)
        assert await page.value("#per-spill") == pytest.approx(1000 * usd / served)
        limit = await clients.metric("overspill_spill_budget_limit_usd", route="embed")
        left = await clients.metric("overspill_spill_budget_remaining_usd", route="embed")
        assert await page.value("#tile-budget") == pytest.approx(limit - left)
        missed = await clients.metric("overspill_latency_budget_missed_total")
        assert await page.value("#tile-attained") == pytest.approx(1 - missed / total)
        for backend, state in (("fleet", "idle"), ("runpod", "busy"), ("runpod", "idle")):
            shown = await page.value(f'[data-backend="{backend}"] .legend .{state} b')
            assert shown == await clients.metric("overspill_slots", backend=backend, state=state)
        assert f"{int(spilled)} spill full" in await page.text('[data-route="embed"] .chips')
        # The fleet has no price, so that what it cost is not known: never zero.
        assert await page.text("#usd-warm") == "not known"


async def test_a_decision_is_explained_on_a_click() -> None:
    async with looking() as (clients, page):
        await burst(clients, 3)
        await page.until("return document.querySelector('button.row.spilled')")
        await page.click("button.row.spilled")
        await page.until("return document.querySelector('#why[open] .candidates')")
        assert "go to runpod?" in await page.text("#why-title")
        words = await page.text("#why-body")
        assert "It went to runpod because every warm slot was taken. It cost $0.0" in words
        assert "full: 2 of 2 slots taken" in words
        assert await page.run("return document.querySelectorAll('#why .candidates tbody tr').length") >= 2
        assert "runpod" in await page.text("#why .candidates tr.chosen")
        shown = await page.value("#why .verdict b[data-value]")
        request_id = await page.run("return document.querySelector('button.row.spilled').dataset.request")
        (record,) = [each for each in clients.gateway.ledger.ended if each.request_id == request_id]
        assert shown == pytest.approx(record.usd)


async def test_a_budget_that_is_used_up_is_shown_with_what_it_refused() -> None:
    used_up = CONFIG.replace(
        "spill_budget: {usd_per_hour: 1}", "spill_budget: {usd_per_hour: 1.0e-9, on_exhausted: shed}"
    )
    async with looking(used_up, calls=1) as (clients, page):
        await burst(clients, 4)
        refused = await clients.metric("overspill_spill_budget_refused_total", route="embed")
        assert refused > 0
        said = f"{int(refused)} not granted"
        await page.until(
            "return document.querySelector('[data-route=embed] .beside').innerText === arguments[0]", said
        )
        await page.until(
            "return document.querySelector('#attention-first').innerText.includes('holds calls back')"
        )
        # The policy chose the rented backend, and the budget had the last word.
        await page.until("return document.querySelector('button.row.shed')")
        assert "not served shed budget" in await page.text("button.row.shed .to")
        await page.run("document.querySelector('button.row.shed').click()")
        await page.until("return document.querySelector('#why[open] .verdict')")
        assert "not served?" in await page.text("#why-title")
        assert "It was not served: the spill budget was used up." in await page.text("#why-body")


async def test_what_if_answers_about_now_and_about_a_supposed_state() -> None:
    async with looking(calls=2) as (_, page):
        await page.click("#whatif button.main")
        await page.until("return document.querySelector('#whatif-answer .candidates')")
        assert "run on fleet now (warm)" in await page.text("#whatif-answer")
        await page.click("#whatif input[value=suppose]")
        await page.run("document.querySelector('[data-backend=fleet] input[name=in_flight]').value = 2")
        await page.click("#whatif button.main")
        await page.until(
            "return document.querySelector('#whatif-answer').innerText.includes('supposed state')"
        )
        assert "run on runpod now (spill_full)" in await page.text("#whatif-answer")
        await page.run("document.querySelector('[data-backend=fleet] input[name=in_flight]').value = 3")
        await page.run("document.querySelector('#whatif').noValidate = true")
        await page.click("#whatif button.main")
        await page.until("return document.querySelector('#whatif-answer .error')")
        assert "does not fit" in await page.text("#whatif-answer .error")
        assert any("400" in each for each in await page.complaints())


async def test_a_dead_fleet_shows_within_two_seconds() -> None:
    async with looking(calls=1) as (clients, page):
        assert "down" not in await page.text("#attention")
        began = asyncio.get_running_loop().time()
        clients.ready(False)
        await page.until(
            "return document.querySelector('#attention-first').innerText.includes('fleet is down')"
        )
        assert asyncio.get_running_loop().time() - began < 2.0
        await page.until("return document.querySelector('[data-backend=fleet] .pill.bad')", seconds=2)
        assert "no replica passes its probes" in await page.text("[data-backend=fleet]")
        assert "not served" in await page.text("[data-route=chat] .pill")
        clients.ready(True)
        await page.until("return document.querySelector('#attention').innerText.includes('not known')")


async def test_nothing_from_outside_becomes_markup() -> None:
    async with looking() as (clients, page):
        status, request_id = await clients.call(model=HOSTILE, request_id=HOSTILE)
        assert status == 200
        assert "<" not in request_id
        await page.until("return document.querySelector('#decisions button.row')")
        await page.click("#decisions button.row")
        await page.until("return document.querySelector('#why .facts')")
        assert HOSTILE in await page.text("#why .facts")
        assert HOSTILE in await page.text("[data-route=embed] .path")
        assert await page.run("return document.querySelectorAll('script:not([src])').length") == 0
        await page.press(ESCAPE)
        await page.run("document.getElementById('find-id').value = arguments[0]", HOSTILE)
        await page.click("#find button")
        await page.until("return document.querySelector('#why .error')")
        assert "nothing is known of request" in await page.text("#why .error")
        assert HOSTILE in await page.text("#why-title")
        assert SECRET not in await page.run("return document.documentElement.outerHTML")
        assert any("404" in each for each in await page.complaints())


async def test_what_may_not_run_does_not_run() -> None:
    async with watched() as clients, browser() as page:
        await page.open(clients.admin + "/console")
        await live(page)
        refused = await page.run(
            "try { document.body.innerHTML = '<b>x'; return '' } catch (e) { return e.name }"
        )
        assert refused == "TypeError"
        await page.run(
            "const s = document.createElement('img'); s.src = 'http://127.0.0.1:9/x'; document.body.append(s)"
        )
        await page.until("return document.querySelector('img[src*=\"127.0.0.1:9\"]').complete")
        said = " ".join(await page.complaints())
        assert "TrustedHTML" in said
        assert "Content Security Policy" in said


@pytest.mark.parametrize("width", [390, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_cut_off_or_scrolls_sideways(width: int, scheme: str) -> None:
    async with looking(calls=3) as (clients, page):
        await page.size(width)
        await page.scheme(scheme)
        await burst(clients, 4)
        await page.until("return document.querySelector('#decisions button.row')")
        assert await page.run(KEPT) == [0, []]
        await page.click("#whatif input[value=suppose]")
        await page.click("#whatif button.main")
        await page.until("return document.querySelector('#whatif-answer .candidates')")
        assert await page.run(KEPT) == [0, []]
        await page.run("document.querySelector('#decisions button.row').click()")
        await page.until("return document.querySelector('#why .candidates')")
        assert await page.run(KEPT) == [0, []]
        paper = await page.run(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (max(paper) < 60) is (scheme == "dark")


@pytest.mark.parametrize("width", [390, 1600])
async def test_what_changes_moves_nothing_else(width: int) -> None:
    async with looking(calls=2) as (clients, page):
        await page.size(width)
        await page.until("return document.querySelector('#decisions button.row')")
        await page.run(SHIFTS)
        await burst(clients, 6)
        await page.until("return Number(document.getElementById('tile-requests').dataset.value) >= 8")
        clients.ready(False)
        await page.until("return document.querySelector('#attention-first').innerText.includes('down')")
        shifts = await page.run("return window.shifts")
        assert sum(value for value, _ in shifts) < 0.02, shifts


async def test_everything_can_be_done_with_the_keyboard() -> None:
    async with looking(calls=2) as (_, page):
        await page.until("return document.querySelector('#decisions button.row')")
        order: list[str] = []
        bare: list[str] = []
        for _ in range(60):
            await page.press(TAB)
            found = await page.run(
                "const e = document.activeElement; return [e.id || e.name || e.className || e.innerText, "
                "getComputedStyle(e).outlineStyle]"
            )
            if await page.run("return document.activeElement === document.body"):
                continue
            order.append(str(found[0]).split("\n")[0])
            if found[1] == "none":
                bare.append(order[-1])
            if order[-1] == "row":
                break
        assert bare == [], "whatever has the focus shows it"
        assert order[0] == "skip"
        assert order.index("unusual") < order.index("hold") < order.index("find-id") < order.index("row")
        await page.press(ENTER)
        await page.until("return document.querySelector('#why[open] .candidates')")
        await page.press(ESCAPE)
        await page.until("return !document.querySelector('#why[open]')")
        assert await page.run("return document.activeElement.className") == "row", "the focus comes back"
        assert "Held still" in await page.until(
            "const note = document.querySelector('#decisions-note').innerText;"
            " return note.includes('Held') && note"
        )
        await page.run("document.querySelector('#whatif-route').focus()")
        for _ in range(4):
            await page.press(TAB)
        assert await page.run("return document.activeElement.value") == "now"
        await page.press(TAB)
        assert await page.run("return document.activeElement.className") == "main"
        await page.press(ENTER)
        await page.until("return document.querySelector('#whatif-answer .candidates')")


async def test_a_stream_that_breaks_is_told_and_found_again() -> None:
    async with watched() as clients, browser() as page:
        await page.open(clients.admin + "/console")
        await live(page)
        address = clients.gateway.admin_address
        assert address is not None
        await clients.gateway.admin.stop()
        await page.until("return document.querySelector('#live.bad')", seconds=4)
        assert "reconnecting" in await page.text("#live")
        assert await page.run("return document.body.classList.contains('stale')")
        await clients.gateway.admin.start(*address)
        await live(page)
        assert not await page.run("return document.body.classList.contains('stale')")


async def test_a_rejected_file_is_shown_with_its_problems() -> None:
    async with looking() as (clients, page):
        assert "Running revision" in await page.text("#config-running")
        problem = Problem("overspill.yaml", 3, 7, f"routes.{HOSTILE}", "is no route")
        clients.gateway.config.reject([problem], clients.gateway.clock.wall())
        await page.until("return document.querySelector('#config-rejected .problems')")
        assert "overspill.yaml:3:7" in await page.text("#config-rejected")
        assert HOSTILE in await page.text("#config-rejected")
        assert "rejected" in await page.text("#attention-first")
        await page.run("document.querySelector('#config-text summary').click()")
        await page.until("return document.querySelector('#config-text pre').innerText.includes('runpod')")
