"""From the outcomes of a suite to its published numbers; nothing here asks or computes anew."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from influbench.evaluation.length_control import FOLDS, Gamed, variant
from influbench.evaluation.suites import alpaca_eval, head_to_head, mt_bench
from influbench.records import Outcome
from influbench.statistics.estimate import Estimate
from influbench.statistics.outcomes import summarise, values

Numbers = dict[str, Estimate]
CHARACTERS = "characters"
"""Unit of what no judge has a part in."""


def alpaca_eval_numbers(
    outcomes: Sequence[Outcome],
    difficulty: dict[str, float] | None = None,
    gamed: Gamed | None = None,
) -> Numbers:
    """``win_rate``, ``win_rate_discrete``, ``win_rate_lc_VARIANT``, lengths; empty if unjudged.

    The length-controlled rate needs ``FOLDS`` judged prompts; its variant is ``length_only``,
    ``difficulty`` or ``official`` (see ``length_control``): they are different numbers.
    """
    judged = len(values(outcomes, "win"))
    found: Numbers = {}
    if judged:
        found["win_rate"] = alpaca_eval.win_rate(outcomes)
        found["win_rate_discrete"] = alpaca_eval.discrete_win_rate(outcomes)
    if judged >= FOLDS:
        found[f"win_rate_lc_{variant(difficulty, gamed)}"] = alpaca_eval.length_controlled(
            outcomes, difficulty=difficulty, gamed=gamed
        )
    for metric in ("length", "baseline_length"):
        found[metric] = summarise(values(outcomes, metric), CHARACTERS)
    return found


def mt_bench_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """``grade`` over all turns, ``grade_N`` a turn, ``grade/CATEGORY``; empty if none was read."""
    turns = sorted({int(o.metric[6:]) for o in outcomes if re.fullmatch(r"grade_\d+", o.metric)})
    if not turns:
        return {}
    return {
        "grade": mt_bench.score(outcomes),
        **{f"grade_{turn}": mt_bench.score(outcomes, turn) for turn in turns},
        **{f"grade/{name}": s for name, s in mt_bench.by_category(outcomes).items() if name},
    }


def head_to_head_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """Shares ``win``, ``tie`` and ``lose`` in percent; empty if none was judged."""
    return head_to_head.shares(outcomes) if len(values(outcomes, "win")) else {}


def pairwise_numbers(outcomes: Sequence[Outcome]) -> Numbers:
    """Shares of win, tie and lose of each turn, such as ``win_2``."""
    found: Numbers = {}
    for turn in sorted({o.metric.rpartition("_")[2] for o in outcomes}):
        own = [_without(o, f"_{turn}") for o in outcomes if o.metric.endswith(f"_{turn}")]
        found |= {f"{name}_{turn}": s for name, s in head_to_head_numbers(own).items()}
    return found


def _without(outcome: Outcome, ending: str) -> Outcome:
    return Outcome(
        metric=outcome.metric.removesuffix(ending),
        item=outcome.item,
        value=outcome.value,
        category=outcome.category,
    )


def unjudged(suite: str, numbers: Mapping[str, Estimate], quality: Mapping[str, Estimate]) -> str:
    """A note where a suite has outcomes and no score; empty where all is well."""
    if any(name.startswith(("win", "grade")) for name in numbers):
        return ""
    silent = quality.get("judge_unparseable")
    share = "all" if silent is None else f"{silent.value:.0f} %"
    return f"{suite}: no score, since {share} of the judge's replies give no verdict"
