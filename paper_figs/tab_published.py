"""Tables 1, 2, 6 and 7 of the paper with our numbers beside the published ones.

The published numbers are data (``published.yaml``, with their sources); ours come from a study's
rows and ledger. Nothing here claims that the two are comparable: each table says why they are not.

    python paper_figs/tab_published.py results/teaching --out figures
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from influbench.results import Study, outputs
from influbench.statistics.estimate import Estimate
from paper_figs.drawing import MARK, command, nothing
from paper_figs.records import estimate

NAME = "tab_published"
COLUMNS = {
    "LC-WR": r"(alpaca_eval/)?win_rate_lc.*",
    "WR": r"(alpaca_eval/)?win_rate",
    "MT-Bench": r"grade|mt_bench/grade",
    "MMLU": r"mmlu/acc",
    "GPQA": r"gpqa[^/]*/acc(_norm)?",
    "ARC-C": r"arc_challenge/acc_norm",
    "GSM8K": r"gsm8k[^/]*/exact_match(/.*)?",
    "HellaSwag": r"hellaswag/acc_norm",
}
"""Column of the paper -> our metrics of the same thing; the first that a study has is taken."""
FRACTIONS = {"MMLU", "GPQA", "ARC-C", "GSM8K", "HellaSwag"}
"""In the paper per cent; the harness gives fractions."""
DIGITS = {"MT-Bench": 3}
NOTHING = "-"


@dataclass(frozen=True)
class Table:
    """One table, ready to be written."""

    name: str
    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@cache
def published() -> Mapping[str, Any]:
    """The paper's tables by name."""
    path = Path(__file__).with_name("published.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def draw(study: Study, out: Path) -> list[Path]:
    """Writes ``table_N.md`` and ``table_N.tex`` of each table that the study has a number for.

    Args:
        study: with students of the paper's arms, or with times of its stages.
        out: folder of the files; made where it is missing.

    Raises:
        UserError: the study has no number of any table, or a file is somebody else's.
    """
    found = [table for name in published() if (table := _table(study, name))]
    if not found:
        wanted = "students of the arms base, none, exact … or times of the loop's stages"
        raise nothing(study, wanted, "influbench sweep experiments/quickstart.yaml")
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for table in found:
        for kind, written in (("md", markdown(table)), ("tex", latex(table))):
            path = outputs.claim(out / f"{table.name}.{kind}", _ours)
            path.write_text(written, encoding="utf-8")
            files.append(path)
    return files


def _ours(path: Path) -> bool:
    return any(outputs.begins(path, f"{sign} {MARK}") for sign in ("<!--", "%"))


def _table(study: Study, name: str) -> Table | None:
    """The table, or None where the study has no number for it."""
    paper = published()[name]
    lines = _times(study, paper) if name == "table_7" else _students(study, paper)
    if lines is None:
        return None
    devices = sorted({str(run.provenance.get("device", "?")) for run in study.runs.values()})
    students = sorted(
        {str((run.config.get("student") or {}).get("name", "?")) for run in study.runs.values()}
    )
    ours = (
        f"ours: study {study.name}; {', '.join(devices)}; student {', '.join(students)}; "
        "95 % intervals in brackets; not comparable with the paper's numbers:"
    )
    reasons = [*paper["not_comparable"], *([] if name == "table_7" else ["other models and judge"])]
    head = ("", *paper["columns"], *(("ours",) if name == "table_7" else ()))
    title = f"{paper['title']} ({name.replace('_', ' ')} of arXiv 2410.14208; {paper['source']})"
    return Table(name, title, head, tuple(lines), (ours, *reasons, *study.notes))


def _students(study: Study, paper: Mapping[str, Any]) -> list[tuple[str, ...]] | None:
    numbers: dict[str, dict[str, tuple[Estimate, int]]] = {}
    for column, pattern in COLUMNS.items():
        for row in study.estimates.to_dict("records"):
            if re.fullmatch(pattern, str(row["metric"])):
                found = numbers.setdefault(str(row["label"]), {})
                found.setdefault(column, (estimate(row), int(row["seeds"])))
    last = max(map(int, study.rows["round"]), default=1)
    lines: list[tuple[str, ...]] = []
    used = 0
    student = None
    for row in paper["rows"]:
        if row["student"] != student:
            student = row["student"]
            lines.append((f"{student} (paper)", *("" for _ in paper["columns"])))
        values = zip(paper["columns"], row["values"], strict=True)
        lines.append((row["method"], *(f"{v:.{DIGITS.get(c, 2)}f}" for c, v in values)))
        own = numbers.get(row["arm"] or "")
        if own and row["round"] == last:
            used += 1
            seeds = max(seeds for _, seeds in own.values())
            cells = (_cell(own.get(column), column) for column in paper["columns"])
            lines.append((f"ours: {row['arm']} ({seeds} seed{'s' * (seeds > 1)})", *cells))
    return lines if used else None


def _cell(found: tuple[Estimate, int] | None, column: str) -> str:
    if found is None:
        return NOTHING
    number = found[0]
    if column in FRACTIONS and number.unit in ("", "fraction"):
        number = number.scaled(100, "%")
    low, high = number.bounds
    if math.isnan(low):
        return f"{number.value:.2f}"
    return f"{number.value:.2f} [{low:.2f}, {high:.2f}]"


def _times(study: Study, paper: Mapping[str, Any]) -> list[tuple[str, ...]] | None:
    ledger = study.ledger.drop_duplicates(["stage", "label", "phase", "items", "seconds"])
    lines: list[tuple[str, ...]] = []
    used = 0
    for row in paper["rows"]:
        ours = NOTHING
        for stage, label, phase in row["ours"]:
            own = ledger[(ledger["stage"] == stage) & (ledger["phase"] == phase)]
            own = own if label is None else own[own["label"] == label]
            items = sum(map(int, own["items"]))
            if items:
                used += 1
                ours = f"{sum(map(float, own['seconds'])) / items:.3g} (n = {items})"
        values = (NOTHING if value is None else f"{value:g}" for value in row["values"])
        lines.append((row["method"], *values, ours))
    return lines if used else None


def markdown(table: Table) -> str:
    """The table as Markdown, notes below."""
    rows = [table.head, ("---", *("--:" for _ in table.head[1:])), *table.lines]
    body = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )
    notes = "\n".join(f"* {note}" for note in table.notes)
    return f"<!-- {MARK} -->\n**{table.title}**\n\n{body}\n\n{notes}\n"


def latex(table: Table) -> str:
    """The table as LaTeX; needs the package booktabs."""
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in table.lines]
    notes = " ".join(f"{_escaped(note)}." for note in table.notes)
    return "\n".join(
        [
            f"% {MARK}: \\usepackage{{booktabs}}",
            r"\begin{table}",
            r"\centering\small",
            f"\\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            r"\toprule",
            " & ".join(map(_escaped, table.head)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            f"\\caption{{{_escaped(table.title)}. {notes}}}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    return re.sub(r"([&%$#_{}])", r"\\\1", text).replace("…", r"\ldots{}").replace("~", r"\~{}")


if __name__ == "__main__":
    sys.exit(command(draw, "The paper's tables with our numbers, as Markdown and LaTeX."))
