"""Names that harm who shows them carelessly, and a browser that tells whether they did."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lab import CHROMIUM_FLAGS, CHROMIUM_NAMES

HOSTILE = (
    "<script>window.HIT=1</script>",
    "<img src=x onerror='window.HIT=2'>",
    "</title></style><svg onload=window.HIT=3>",
    "\"q' onmouseover='window.HIT=4",
    "[a](javascript:window.HIT=5)",
    "a|b*c_d`e`",
    "$\\frac{x$ \\input{no} 50% #1 &amp; ~^",
    "\x1b[31mred\x1b[0m",
    "\u202etxt.gpj",
    "{{7*7}} {% raw %} 上衣",
)
"""HTML, Markdown, LaTeX and mathematics, signs that terminals obey, turns of direction, templates;
what of them runs as a script sets `window.HIT`."""


def rename_all(source: Path, target: Path) -> Path:
    """Copy a drawn dataset; call its photos, categories and supercategories by such names."""
    of_supercategory: dict[str, str] = {}
    for name, folder in (("val", "test"), ("train", "train")):
        (target / folder).mkdir(parents=True)
        path = source / f"instances_attributes_{name}2020.json"
        content: dict[str, Any] = json.loads(path.read_text())
        for number, image in enumerate(content["images"]):
            sign = HOSTILE[number % len(HOSTILE)]
            # No file is called so: a folder's name would begin, or a terminal be told.
            sign = sign.translate({ord("/"): "\u2215", ord("\\"): "\u2216", 27: None})
            file_name = f"{sign} {name}{number}.jpg"
            shutil.copy(source / folder / image["file_name"], target / folder / file_name)
            image["file_name"] = file_name
        for number, category in enumerate(content["categories"]):
            known = len(of_supercategory)
            sign = HOSTILE[known % len(HOSTILE)]
            own = of_supercategory.setdefault(category["supercategory"], f"{sign} {known}")
            category["supercategory"] = own
            category["name"] = f"{HOSTILE[number % len(HOSTILE)]} no. {number}"
        (target / path.name).write_text(json.dumps(content))
    return target


class Seen(NamedTuple):
    """What a browser made of a page.

    Attributes:
        text: all of it, chapters unfolded.
        outside_tables: the same without tables, in whose cells a turn of direction ends.
        hit: what a script of a name has left; None where none ran.
        scripts: how many elements, handlers and links could run one.
        foreign: addresses that it asked for, but for itself and what it holds.
        policy: what it forbids itself.
    """

    text: str
    outside_tables: str
    hit: Any
    scripts: int
    foreign: list[str]
    policy: str


_COUNT_SCRIPTS = """() => document.querySelectorAll(
  "script, iframe, object, [onerror], [onload], [onmouseover], a[href^='javascript']").length"""
_POLICY = """() => document.querySelector("meta[http-equiv='Content-Security-Policy']")?.content"""
_UNFOLD = "() => document.querySelectorAll('details').forEach(one => { one.open = true; })"
_DROP_TABLES = "() => document.querySelectorAll('table').forEach(one => one.remove())"


def find_chromium() -> str:
    """A Chromium on this machine; skips where there is none."""
    names = (os.environ.get("CLOTHSEG_CHROMIUM") or "", *CHROMIUM_NAMES)
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser: install chromium, or set CLOTHSEG_CHROMIUM to one")
    return found


def show_in_browser(pages: Iterable[Path]) -> dict[Path, Seen]:
    """Open pages one by one, move the mouse over them, and look."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: install it")
    seen: dict[Path, Seen] = {}
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=list(CHROMIUM_FLAGS)
        )
        for path in pages:
            page = browser.new_page()
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            page.evaluate(_UNFOLD)
            page.mouse.move(200, 200)
            page.wait_for_timeout(200)
            text = page.inner_text("body")
            hit = page.evaluate("() => window.HIT ?? null")
            scripts, policy = page.evaluate(_COUNT_SCRIPTS), page.evaluate(_POLICY)
            page.evaluate(_DROP_TABLES)
            outside = page.inner_text("body")
            foreign = [url for url in asked if not url.startswith(("data:", path.as_uri()))]
            seen[path] = Seen(text, outside, hit, scripts, foreign, policy or "")
            page.close()
        browser.close()
    return seen
