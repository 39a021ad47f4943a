"""Pages as a browser lays them out: chromium without a window, and what a script measures in it."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.requirements import unavailable

NAMES = ("chromium", "chromium-browser", "google-chrome")

MEASURE = """
const frame = document.querySelector("iframe"), inner = frame.contentDocument, root = inner.documentElement;
const scrolls = (node) => node && node !== inner.body && (
  ["auto", "scroll"].includes(frame.contentWindow.getComputedStyle(node).overflowX) || scrolls(node.parentElement));
const found = {width: root.clientWidth, needed: root.scrollWidth, outside: [], pictures: []};
for (const node of inner.body.querySelectorAll("*")) {
  const box = node.getBoundingClientRect();
  if (!node.closest("svg") && box.width && (box.left < 0 || box.right > root.clientWidth + 0.5) && !scrolls(node))
    found.outside.push(node.outerHTML.slice(0, 80));
}
for (const picture of inner.querySelectorAll("svg")) {
  const box = picture.getBoundingClientRect();
  const title = picture.closest("figure").querySelector("h3").textContent;
  found.pictures.push({title, width: box.width, height: box.height, scrolls: !!scrolls(picture.parentElement),
    drawn: picture.querySelectorAll("path, use, image").length});
}
const told = document.createElement("pre");
told.textContent = JSON.stringify(found);
document.body.replaceChildren(told);
"""
"""Runs once the page is laid out in a frame: a window of chromium cannot be as narrow as a phone."""


@dataclass(frozen=True)
class Layout:
    """A page in a window.

    Attributes:
        width: Of the window, in pixels.
        needed: Width of the page.
        outside: Beginnings of elements that reach beyond the window and are in no box that scrolls.
        pictures: Each figure: title, width, height, whether it may be scrolled, and how many shapes it has.
    """

    width: int
    needed: int
    outside: list[str]
    pictures: list[dict[str, Any]]


def browser() -> str:
    """The browser; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        unavailable("chromium", f"none of {', '.join(NAMES)} is installed")
    return found


def lay_out(page: str, width: int, folder: Path) -> Layout:
    """Lay a page out in a window of so many pixels, and measure it."""
    frame = f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{html.escape(page)}"></iframe>'
    script = f'window.addEventListener("load", () => {{{MEASURE}}});'
    host = folder / "host.html"
    host.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}<script>{script}</script></body>")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    places = [f"--user-data-dir={folder / 'profile'}", "--dump-dom", host.as_uri()]
    done = subprocess.run([*command, *places], capture_output=True, check=True, timeout=600)
    told = re.search(r"<pre>(.*?)</pre>", done.stdout.decode(), re.DOTALL)
    assert told is not None, done.stderr.decode()[-2000:]
    return Layout(**json.loads(html.unescape(told[1])))
