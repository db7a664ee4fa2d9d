"""The page as one file: template, style, scripts and data in it, and nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from influbench.errors import require
from influbench.files import write_bytes
from influbench.report.page.content import Page
from influbench.results import outputs

HEAD = "<!doctype html>\n<!-- influbench report -->\n"
"""Stands first in every page, so that no other file is ever overwritten."""
FILES = Path(__file__).with_name("files")
SCRIPTS = ("data.js", "tables.js", "labels.js", "charts.js", "list.js", "details.js", "browser.js")


def claim(out: Path, inputs: Sequence[object] = ()) -> Path:
    """``out`` as a page that may be written; see :func:`outputs.claim`.

    Raises:
        UserError: it may not.
    """
    return outputs.claim(out, lambda path: outputs.begins(path, HEAD), inputs=inputs)


def write(out: Path, page: Page) -> None:
    """Writes the page, whole or not at all.

    Raises:
        UserError: there is a file that influbench did not write; or plotly is not installed.
    """
    write_bytes(claim(out), render(page).encode("utf-8", errors="replace"))


def render(page: Page) -> str:
    """The page's HTML; the same records give the same bytes.

    Texts from models stand in it once, as data that the scripts show as text. Jinja escapes all
    that the template itself shows.

    Raises:
        UserError: plotly, which draws the charts, is not installed.
    """
    require("report", "an HTML page with charts")
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {
        "charts": [
            {"costQuality": list(section.cost_quality), "agreement": list(section.agreement)}
            for section in page.sections
        ],
        "sets": [own.as_json() for own in page.sets],
    }
    return HEAD + environment.get_template("page.html").render(
        page=page,
        style=_own("page.css"),
        scripts=[_own(name) for name in SCRIPTS],
        plotly=get_plotlyjs(),
        data=_in_script(data),
    )


def _own(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def _in_script(data: Any) -> str:
    """JSON that holds no ``<``: nothing in it can end the script tag that it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
