"""Pages of the site that are made from the code: the front page, one per estimator, all settings.

``mkdocs build --strict`` calls it; nothing here is written down twice.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from influbench.errors import UserError
from influbench.estimator import registry
from influbench.loop.settings import RunConfig

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"``(.+?)``")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the made pages to those in the folder."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Path to Markdown."""
    made = {"index.md": front(), "settings.md": settings()}
    rows = []
    for name in registry.available():
        made[f"estimators/{name}.md"] = card(name)
        rows.append(f"* [`{name}`]({name}.md): {_summary(name)}")
    made["estimators/index.md"] = "# Estimators\n\n" + "\n".join(rows) + "\n"
    return made


def front() -> str:
    """The README, with links that hold from here; pictures and files outside stay names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    return re.sub(r"\]\(\s*docs/", "](", text)


def card(name: str) -> str:
    """Facts, options and module docstring of one method."""
    method = registry.load(name)
    facts = registry.build(name).facts
    lines = [f"# {name}", "", _doc(name), "", "| | |", "|---|---|"]
    needs = ", ".join(sorted(facts.needs)) or "the text alone"
    lines += [
        f"| a score is | {facts.scale} |",
        f"| needs | {needs} |",
        f"| passes to prepare, for each candidate | {facts.passes[0]}; {facts.passes[1]} |",
        f"| source | {facts.source} |",
        "",
        "## Options",
        "",
    ]
    options = [field for field in dataclasses.fields(method) if field.init]  # type: ignore[arg-type]
    lines += [f"* `{field.name}`: {field.type}, default `{field.default!r}`" for field in options]
    return "\n".join(lines if options else [*lines, "None."]) + "\n"


def _doc(name: str) -> str:
    text = importlib.import_module(registry.load(name).__module__).__doc__ or ""
    return CODE.sub(r"`\1`", text.replace("::\n", ":\n")).strip()


def _summary(name: str) -> str:
    try:
        return _doc(name).split("\n\n")[0].replace("\n", " ")
    except UserError as error:
        return str(error)


def settings() -> str:
    """Every setting of a run with its default, and what the code says of it."""
    lines = ["# Settings of a run", "", "For a YAML file or `--set KEY=VALUE`.", ""]
    lines += ["| setting | default | |", "|---|---|---|"]
    lines += [f"| `{key}` | `{value}` | {text} |" for key, value, text in leaves(RunConfig)]
    return "\n".join(lines) + "\n"


def leaves(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted name, default and description of each setting."""
    for name, field in kind.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{path}{name}.")
        else:
            default = "required" if field.is_required() else repr(field.default)
            if field.default_factory is not None:
                default = "{}"
            text = (field.description or "").replace("|", "\\|")
            yield f"{path}{name}", default.replace("|", "\\|"), text
