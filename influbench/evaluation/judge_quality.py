"""How a judge behaved while it gave a score, from that score's own outcomes.

These stand beside every score. A liking for the first place shows a judge that does not read; a
liking for the longer answer may be right (the longer one may be better), so it is no proof.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from influbench.records import Outcome
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import by_item, summarise

PREFERS_FIRST = "judge_prefers_first"
"""Preference for the answer shown first, percent; 50 = no position bias."""
CONSISTENT = "judge_consistent"
"""Share of the items where both orders favour the same answer, percent."""
PREFERS_LONGER = "judge_prefers_longer"
"""Preference for the longer answer, percent."""
UNPARSEABLE = "judge_unparseable"
"""Share of replies that give no verdict, percent."""


def quality(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """All of the above that the outcomes of one suite tell, with standard errors over items."""
    found = {
        PREFERS_FIRST: _prefers_first(outcomes),
        CONSISTENT: _consistent(outcomes),
        PREFERS_LONGER: _prefers_longer(outcomes),
        UNPARSEABLE: [o.value for o in outcomes if _plain(o) == "unparseable"],
    }
    return {name: summarise(v, "percent", 100.0) for name, v in found.items() if v}


def _prefers_first(outcomes: Sequence[Outcome]) -> list[float]:
    duels = _mean_by_item([o for o in outcomes if _plain(o) == "first"])
    first, second = by_item(outcomes, "win_first"), by_item(outcomes, "win_second")
    shown = {
        item: [
            *([first[item]] if item in first else []),
            *([1 - second[item]] if item in second else []),
        ]
        for item in dict.fromkeys([*first, *second])
    }
    return [*duels, *(float(np.mean(v)) for v in shown.values())]


def _consistent(outcomes: Sequence[Outcome]) -> list[float]:
    duels = _mean_by_item([o for o in outcomes if _plain(o) == "disagreement"])
    first, second = by_item(outcomes, "win_first"), by_item(outcomes, "win_second")
    pairs = [
        float(np.sign(first[i] - 0.5) == np.sign(second[i] - 0.5)) for i in first if i in second
    ]
    return [*(1 - value for value in duels), *pairs]


def _prefers_longer(outcomes: Sequence[Outcome]) -> list[float]:
    wins, ours = by_item(outcomes, "win"), by_item(outcomes, "length")
    theirs = by_item(outcomes, "baseline_length")
    return [
        win if ours[item] > theirs[item] else 1 - win
        for item, win in wins.items()
        if item in ours and ours[item] != theirs[item]
    ]


def _plain(outcome: Outcome) -> str:
    """The metric without the turn that a two-turn comparison appends."""
    return outcome.metric.removesuffix("_1").removesuffix("_2")


def _mean_by_item(outcomes: Sequence[Outcome]) -> list[float]:
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.item, []).append(outcome.value)
    return [float(np.mean(v)) for v in found.values()]
