"""The built site in a browser: pages load in silence and fit, links resolve, tables sort and filter, plots follow."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.site

SIZES = {"telephone": {"width": 390, "height": 844}, "screen": {"width": 1400, "height": 900}}


@pytest.fixture
def page(browser, address):
    """Open a page of the site; every message of the console and every request to another machine is a fault."""
    context = browser.new_context(viewport=SIZES["screen"], base_url=address)
    context.set_default_timeout(120_000)  # milliseconds; a busy machine takes its time
    tab = context.new_page()
    tab.faults = listen(tab, address)
    yield tab
    assert tab.faults == []
    context.close()


def listen(tab, address):
    faults = []
    tab.on(
        "console", lambda said: faults.append(f"{tab.url}: {said.text}") if said.type in ("error", "warning") else None
    )
    tab.on("pageerror", lambda error: faults.append(f"{tab.url}: {error}"))
    tab.on("requestfailed", lambda request: faults.append(f"{tab.url}: {request.url} failed"))
    outside = re.compile(rf"(?!{re.escape(address)}|file:|data:|blob:|about:)")
    tab.on("request", lambda request: faults.append(f"fetched {request.url}") if outside.match(request.url) else None)
    return faults


def test_every_page_loads_in_silence_and_fits_a_telephone_and_a_screen(page, built):
    # Each page reads the index of the search, seconds of work; the search has a test of its own.
    words = {"config": {"lang": ["en"], "separator": "\\s", "pipeline": [], "fields": {}}, "docs": []}
    page.route("**/search_index.json", lambda route: route.fulfill(json=words))
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    scheme, wide = "document.body.dataset.mdColorScheme", {}
    for path in sorted(built.rglob("*.html")):
        page.set_viewport_size(SIZES["telephone"])
        page.emulate_media(color_scheme="light")
        page.goto(path.relative_to(built).as_posix())
        for size, colours, name in (("telephone", "light", "default"), ("screen", "dark", "slate")):
            page.set_viewport_size(SIZES[size])
            page.emulate_media(color_scheme=colours)
            page.wait_for_function(f"{scheme} === '{name}'")
            try:  # a drawer of the theme may still be on its way out
                page.wait_for_function(f"{over} <= 0", timeout=3000)
            except Exception:  # the driver's own error, which is imported with the browser
                wide[path.name, size] = page.evaluate(over)
    assert wide == {}


class Page(HTMLParser):
    """The addresses that a page names, and the places on it that a link can lead to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links |= {given[name] for name in ("href", "src") if given.get(name)}
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}


def test_every_link_resolves(built):
    pages = {path.resolve(): Page(path.read_text()) for path in built.rglob("*.html") if path.name != "404.html"}
    broken, internal = [], 0
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                if not link.startswith(("https://", "data:")):
                    broken.append((path.name, link))
                continue
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            internal += 1
            if not there.is_file() or (anchor and there in pages and unquote(anchor) not in pages[there].places):
                broken.append((path.name, link))
    assert broken == [] and internal > 1000


def column(page, head, table=".board-table"):
    """Return the visible values of a column."""
    rows = f"document.querySelectorAll('{table}')[0]"
    place = page.evaluate(f"[...{rows}.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === '{head}')")
    assert place >= 0, head
    return page.evaluate(
        f"[...{rows}.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[{place}].textContent.trim())"
    )


def numbers(values):
    return [float(re.match(r"[+-]?[\d.]+", value)[0]) for value in values if value]


def test_a_click_on_a_head_sorts(page):
    page.goto("leaderboard/tiny-1.html")
    before = column(page, "ASR@1")
    head = page.locator(".board-table th", has_text="ASR@1").first
    for order, attribute in ((sorted, "ascending"), (lambda v: sorted(v, reverse=True), "descending")):
        head.get_by_role("button").click()
        values = numbers(column(page, "ASR@1"))
        assert values == order(values) and len(values) == len(numbers(before)) and values != numbers(before)
        empty = [value for value in column(page, "ASR@1")[len(values) :] if value]
        assert not empty, "cells that another figure scores come last"
        assert head.get_attribute("aria-sort") == attribute
    page.get_by_role("button", name="time", exact=True).first.click()
    seconds = page.evaluate("[...document.querySelector('.board-table').tBodies[0].rows].map(r => r.dataset.seconds)")
    given = [float(one) for one in seconds if one]
    assert given == sorted(given) and all(one == "" for one in seconds[len(given) :]), "empty ones come last"
    assert head.get_attribute("aria-sort") is None
    page.get_by_role("button", name="defense", exact=True).first.click()
    names = [name.lower() for name in column(page, "defense")]
    assert [n.split()[0] for n in names] == sorted(n.split()[0] for n in names)


def test_filters_leave_what_they_say(page):
    page.goto("leaderboard/tiny-1.html")
    form, count = page.locator(".board-filters").first, page.locator(".board-filters output").first
    total = len(column(page, "access"))
    assert count.text_content() == f"{total} of {total} cells"
    form.locator("[name=access]").select_option("few-labelled")
    assert set(column(page, "access")) == {"few-labelled"} and 0 < len(column(page, "access")) < total
    assert count.text_content() == f"{len(column(page, 'access'))} of {total} cells"
    form.locator("[name=exactness]").select_option("exact")
    assert set(column(page, "exactness")) == {"exact"} and set(column(page, "access")) == {"few-labelled"}
    form.locator("[type=reset]").click()
    page.wait_for_function(f"document.querySelector('.board-filters output').textContent.startsWith('{total} ')")
    form.locator("[name=budget]").fill("2")
    losses = numbers(column(page, "loss"))
    assert 0 < len(losses) < total and max(losses) <= 2
    form.locator("[name=budget]").fill("")
    form.locator("[name=text]").fill("cleanclip_lr0.001")
    assert {name.split()[0] for name in column(page, "defense")} == {"CleanCLIP"}
    form.locator("[name=text]").fill("no such thing")
    assert column(page, "defense") == []


def test_seeds_reliability_and_reported_results(page):
    page.goto("leaderboard/small-1.html")
    assert column(page, "ASR@1") == ["95.0 ± 5.0", "10.0 ± 5.0", "40.0 ± 5.0", "40.0"]
    form = page.locator(".board-filters").first
    form.locator("[name=seeds]").fill("2")
    assert column(page, "seeds") == ["3", "3", "3"]
    form.locator("[name=seeds]").fill("")
    form.locator("[name=reliable]").check()
    assert "rvpt" not in column(page, "defense") and len(column(page, "defense")) == 3
    reported = page.locator(".board-table").nth(1)
    assert reported.locator("tbody tr").count() == 1 and "Theirs" in reported.text_content()
    assert reported.get_by_role("link", name="paper or log").get_attribute("href") == "https://example.org/paper"
    assert "Theirs" not in page.locator(".board-table").first.text_content()
    assert "Theirs" not in page.locator(".board-plane").text_content()


def test_the_plane_has_the_cells_that_the_filters_leave(page):
    page.goto("leaderboard/small-1.html")
    points = page.locator(".board-plane .point")
    assert points.count() == 4
    words = points.nth(1).get_attribute("aria-label")
    assert words == "BadNet, cleanclip, made-up: ASR@1 10.0, CA@1 56.0, seeds 3"
    points.nth(1).focus()
    assert page.locator(".board-plane .board-told").text_content() == words
    points.nth(1).dispatch_event("click")
    assert page.locator("tr.marked td").first.text_content().strip() == "cleanclip"
    page.locator(".board-filters [name=reliable]").check()
    assert points.count() == 3
    page.locator(".board-plane .board-legend").get_by_role("button", name="cleanclip").press("Enter")
    assert points.count() == 2
    assert page.evaluate("document.activeElement.textContent") == "cleanclip", "the keyboard stays on the name"
    page.locator(".board-plane .board-legend").get_by_role("button", name="cleanclip").press("Enter")
    assert points.count() == 3
    lower, higher = (float(points.nth(i).get_attribute("transform").split()[1].rstrip(")")) for i in (0, 1))
    assert lower < higher, "the undefended model, with the higher ASR, is above"


def test_the_plane_shows_the_chosen_attack(page):
    page.goto("leaderboard/tiny-1.html")
    select = page.locator(".board-plane select")
    # Attacks of one label differ by the names of their entries.
    rows = page.evaluate("""[...document.querySelector('.board-table').tBodies[0].rows].map(row => row.dataset).map(d => [
        d.attack, `${d.attack}${d.attackEntry && ` ${d.attackEntry}`} (${d.model}, ${d.source})`])""")
    for option in select.locator("option").all_text_contents():
        select.select_option(option)
        labels = [one.get_attribute("aria-label") for one in page.locator(".board-plane .point").all()]
        of = [attack for attack, group in rows if group == option]
        assert len(labels) == len(of) > 0 and all(label.startswith(f"{of[0]},") for label in labels)


def test_persistence_is_plotted_where_cells_have_it(page):
    page.goto("leaderboard/small-1.html")
    plot = page.locator(".board-curves")
    assert plot.locator("polyline").count() == 6 and plot.locator("polyline.clean").count() == 3
    labels = [one.get_attribute("aria-label") for one in plot.locator(".point").all()]
    assert "cleanclip, step 20: ASR@1 10.0, CA@1 56.0, seeds 3" in labels
    assert "cleanclip, clean model, step 10: ASR@1 1.0, CA@1 56.0, seeds 3" in labels
    plot.locator(".board-legend").get_by_role("button", name="cleanclip").click()
    assert plot.locator("polyline").count() == 4
    page.goto("leaderboard/paper-1.html")  # without cells
    assert page.locator(".board-curves").count() == 0


def test_plots_fit_a_telephone_and_follow_the_width(page):
    page.set_viewport_size(SIZES["telephone"])
    page.goto("leaderboard/small-1.html")
    box = "document.querySelector('.board-plane svg').viewBox.baseVal.width"
    narrow = page.evaluate(box)
    assert 280 <= narrow <= 390
    page.set_viewport_size(SIZES["screen"])
    page.wait_for_function(f"{box} > 500")


@pytest.mark.parametrize("way", ["server", "disk"])
def test_the_search_finds_a_method(page, built, way):
    page.goto("index.html" if way == "server" else (Path(built) / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("InverTune")  # the search listens to keys
    page.locator(".md-search-result__link[href*='methods/defenses/invertune.html']").first.wait_for()


def test_the_site_opens_from_a_disk(page, built):
    page.goto((Path(built) / "leaderboard/small-1.html").as_uri())
    page.locator(".board-filters [name=access]").first.select_option("clean-pairs")
    assert column(page, "defense") == ["cleanclip"]
    assert page.locator(".board-plane .point").count() == 1
