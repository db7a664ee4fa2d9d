"""The table of estimators and the card of one, made without importing torch."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
from collections.abc import Mapping
from textwrap import dedent

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from influbench.errors import UserError
from influbench.estimator import OF_STUDENT, Facts, registry
from influbench.estimator.registry import Listing
from influbench.terminal import cell, line

OURS = "influbench"
SHORT = {"language_model": "lm", "gradients": "grad", "warmup": "warm"}
CAPTION = (
    "Passes of the student to prepare, and for each candidate; a backward counts two: M references,"
    " W warm-up examples. moments: and gradients; lm: a language model; warm: a warm-up set. "
    "'influbench estimators NAME' says more."
)
PARAGRAPHS = re.compile(r"\n\n|\n(?=Cost: |Source: |Deviations?: )")
COLUMNS = ("name", "scale", "needs", "prepare", "each", "from")


def estimator_table(methods: Mapping[str, Listing], width: int) -> Text:
    """One line a registered method, with its default options.

    A method whose module cannot be imported, or that says nothing of itself, has its error there.

    Args:
        methods: by name.
        width: of the terminal; the last column is left out where it has no room for its heading,
            and what does not fit is cut off.
    """
    rows = [COLUMNS, *(tuple(map(line, _row(*item))) for item in methods.items())]
    whole = [row for row in rows if len(row) == len(COLUMNS)]
    widest = [max(map(len, column)) for column in zip(*whole, strict=True)]
    if sum(widest[:-1]) + len(COLUMNS) + len(COLUMNS[-1]) > width:
        widest.pop()
    lines = [
        " ".join(text.ljust(room) for text, room in zip(row, widest, strict=False)) for row in rows
    ]
    cut = [text if len(text.rstrip()) <= width else f"{text[: width - 1]}…" for text in lines]
    return Text("\n".join([*map(str.rstrip, cut), "", CAPTION]))


def _row(name: str, listing: Listing) -> tuple[str, ...]:
    try:
        facts = registry.build(name).facts
    except UserError as error:
        return name, str(error)
    origin = facts.source if listing.package == OURS else listing.package
    return name, facts.scale, _needs(facts), *facts.passes, origin


def _needs(facts: Facts) -> str:
    """What a method needs, without what its other needs imply."""
    implied = {"student"} if facts.needs & OF_STUDENT else set()
    if "moments" in facts.needs:
        implied.add("gradients")
    order = ("student", "gradients", "moments", "language_model", "warmup", "judge")
    named = [SHORT.get(n, n) for n in order if n in facts.needs - implied]
    return " ".join(named) or "text"


def estimator_card(name: str) -> RenderableType:
    """All that a method says of itself: facts, options, module docstring.

    Raises:
        UserError: there is no such method.
    """
    method = registry.load(name)
    facts = registry.build(name).facts
    listing = registry.available().get(registry.parse(name)[0])
    lines = {
        "class": f"{method.__module__}:{method.__qualname__}",
        "package": listing.package if listing else "given as module:Class",
        "scale": facts.scale,
        "needs": ", ".join(sorted(facts.needs)) or "the texts alone",
        "passes": f"{facts.passes[0]} to prepare, {facts.passes[1]} per candidate",
        "stderr": "yes" if facts.stderr else "no",
        "source": facts.source,
    }
    told = _grid(list(lines.items()))
    parts: list[RenderableType] = [Text(name, "bold"), told]
    if options := _options(method):
        parts += [Text("\noptions, as KEY=VALUE", "bold"), _grid(options)]
    if doc := registry.module_docstring(method).strip():
        parts += [Text(), Text("\n\n".join(map(_filled, PARAGRAPHS.split(doc))))]
    return Group(*parts)


def _filled(paragraph: str) -> str:
    """A paragraph as one line, for the terminal to wrap; equations and lists keep theirs."""
    lines = paragraph.splitlines()
    return paragraph if any(text.startswith(" ") for text in lines) else " ".join(lines)


def _grid(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*map(cell, row))
    return grid


def _options(method: type) -> list[tuple[str, str]]:
    """``name = default`` and ``type: what it does``, an option."""
    help_of: dict[str, str] = {}
    for base in reversed(method.__mro__):
        help_of |= _field_docs(base)
    rows = []
    for field in dataclasses.fields(method):
        if not field.init:
            continue
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        kind = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        told = help_of.get(field.name, "")
        rows.append((f"{field.name}{default}", f"{kind}: {told}" if told else kind))
    return rows


def _field_docs(method: type) -> dict[str, str]:
    """The strings that stand below a class's fields; nothing where its source is not at hand."""
    if method is object:
        return {}
    try:
        tree = ast.parse(dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):
        return {}
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        match below:
            case ast.Expr(value=ast.Constant(value=str(text))):
                found[field.target.id] = " ".join(text.split())
            case _:  # no string below it
                pass
    return found
