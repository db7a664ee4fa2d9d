"""What a reader of a study's numbers must know, in words, below its table."""

from __future__ import annotations

import re
from typing import Any

from rich.text import Text

from influbench.results import BASE, BASELINE, CEILING, Study
from influbench.results.axes import leaves
from influbench.results.students import AXIS
from influbench.statistics.against_oracle import ENOUGH_REFERENCES
from influbench.terminal import plain

LOSS = "heldout_loss"


def caption_of(study: Study) -> Text:
    """The lines under a study's tables; the verdict on the base student is the first."""
    found = base_verdict(study)
    lines = Text(plain("\n".join(lines_of(study))), style="italic")
    if found is None:
        return lines
    good, line = found
    return Text.assemble((line, "italic" if good else "bold red"), "\n", lines)


def base_verdict(study: Study) -> tuple[bool, str] | None:
    """Whether some trained arm beats the base student on held-out loss, and how many do.

    None where the study has no base student, or nothing that was trained. The loss of an arm is its
    mean over seeds; whether it is better for sure is what ``differences`` says.
    """
    numbers: list[dict[str, Any]] = study.estimates.to_dict("records")
    losses = [row for row in numbers if row["metric"] == LOSS]
    bases = [row for row in losses if row["estimator"] == BASE]
    arms = [row for row in losses if row["estimator"] != BASE]

    def fits(base: dict[str, Any], arm: dict[str, Any]) -> bool:
        return all(base[axis] is None or base[axis] == arm[axis] for axis in study.axes)

    pairs = [(arm, base) for arm in arms for base in bases if fits(base, arm)]
    if not pairs:
        return None
    better = sum(arm["value"] < base["value"] for arm, base in pairs)
    values = sorted({f"{base['value']:.3f}" for base in bases})
    what = f"the base student on held-out loss ({' and '.join(values)} nats/token)"
    if better:
        return True, f"{better} of {len(pairs)} trained arms beat {what}"
    return False, (
        f"WARNING: none of {len(pairs)} trained arms beats {what}: training made every student "
        "worse, so the order of the arms says little"
    )


def hides_ceiling(study: Study) -> bool:
    """Whether the study's ceiling rests on too few references to be shown."""
    return 0 < _references(study) < ENOUGH_REFERENCES


def lines_of(study: Study) -> list[str]:
    """All notes but the verdict on the base student, plain text."""
    numbers = study.estimates
    seeds = sorted(set(numbers["seeds"]))
    spread = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0] if seeds else 0)
    lines = [f"[low, high]: 95 % interval; seeds: {spread}; a backward counts as two passes"]
    labels = set(numbers["estimator"])
    if BASE in labels:
        lines.append(f"{BASE}: the student before any training")
    if BASELINE in labels:
        lines.append(f"{BASELINE}: the teacher is not taught")
    if AXIS in study.axes:
        lines.append(
            f"{AXIS}: candidates were scored for the one that was probed; all learnt the same "
            "data, each against its own untrained and untaught"
        )
    if CEILING in labels and not hides_ceiling(study):
        lines.append(f"{CEILING}: exact against itself, half of the reference set each")
    elif hides_ceiling(study) and "spearman" in set(numbers["metric"]):
        lines.append(no_ceiling(_references(study)))
    if study.strays:
        lines.append(
            f"left out: {_named(study.strays)} in {study.path}, which the study's grid does not "
            "have (any more): delete them, or put them back into the grid"
        )
    if study.missing:
        lines.append(f"not run yet: {_named(study.missing)}")
    return [*lines, *_gathered(study)]


def no_ceiling(references: int) -> str:
    """Why the oracle's agreement with itself is not shown."""
    return (
        f"no {CEILING} (the oracle against itself, half of the references each): {references} "
        f"references leave too few to a half, it takes {ENOUGH_REFERENCES}"
    )


def _gathered(study: Study) -> list[str]:
    """The runs' notes; of those that differ only by a number or an arm, the first and how many."""
    arms = sorted(set(study.estimates["estimator"]), key=len, reverse=True)
    anything = re.compile("|".join([r"\d+(?:\.\d+)?", *(rf"\b{re.escape(a)}\b" for a in arms)]))
    alike: dict[str, list[str]] = {}
    for note in study.notes:
        alike.setdefault(anything.sub("#", note), []).append(note)
    return [
        first if not more else f"{first} [and {len(more)} like it]"
        for first, *more in alike.values()
    ]


def _named(runs: tuple[str, ...], most: int = 3) -> str:
    names = ", ".join(runs[:most]) + (", …" if len(runs) > most else "")
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''} ({names})"


def _references(study: Study) -> int:
    """References of the smallest run, as its configuration says; 0 where it does not."""
    asked = [leaves(run.config).get("data.num_reference") for run in study.runs.values()]
    return min((n for n in asked if isinstance(n, int)), default=0)
