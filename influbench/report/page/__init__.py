"""One self-contained HTML page about studies or score files; needs no torch and no network."""

from __future__ import annotations

from influbench.report.page.content import Page, page_of
from influbench.report.page.render import claim, render, write

__all__ = ["Page", "claim", "page_of", "render", "write"]
