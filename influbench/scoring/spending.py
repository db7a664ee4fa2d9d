"""Methods at one price: what each does with a budget of passes, or why it cannot use it.

A method spends what its facts say: to prepare, once, and for each candidate; both together, shared
out over the candidates, is what the budget is compared with. It has two ways to spend more or less:
the option that its facts name (``Facts.spends``), and how many references it looks at. The option
gives way first, so that methods see the same references as long as they can.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from influbench import models
from influbench.data.records import Example, LedgerRow, ModelRef
from influbench.errors import UserError
from influbench.estimator import Estimator, Facts, registry
from influbench.estimator.passes import options_of, spent
from influbench.files import digest
from influbench.scoring.settings import ORACLE, MethodConfig, SpendingLimit
from influbench.store import Stage, Work
from influbench.store.session import Session

LEAST_REFERENCES = 2
"""Every score carries a standard error over them."""
NEARLY = 0.9
"""A method that spends less than this share of a budget has not used it."""
PROBED = 8
"""References that the pace is measured on."""
MOST = 4096
"""Values of an option that are looked at."""


@dataclass(frozen=True)
class Counts:
    """How much there is: what ``M`` and ``W`` stand for in a method's facts, and the candidates."""

    candidates: int
    references: int
    warmup: int
    paired: bool = False
    """Each reference is two examples for the student, as ``objective = dpo`` has it."""


@dataclass(frozen=True)
class Spending:
    """What a method does with a budget."""

    options: dict[str, Any]
    references: int
    """How many it looks at."""
    cost: float | None
    """Passes a candidate, preparation shared out; None where nobody knows beforehand."""
    note: str
    """For a reader: what was changed, or that and why it cannot use the budget."""


def spend(name: str, options: dict[str, Any], budget: float, counts: Counts) -> Spending:
    """How a method spends at most ``budget`` passes a candidate, and as many as it can of them.

    Args:
        name: the estimator.
        options: its own.
        budget: passes of the student a candidate, a backward counting two.
        counts: how much there is.
    """
    method, whole = registry.build(name, options), counts.references
    spends = method.facts.spends
    told = f"{name}: cannot use a budget of {budget:.4g} passes a candidate"
    cost = _cost(method, counts, whole)
    if cost is None:
        return Spending(options, whole, None, f"{told}: what it costs is not told beforehand")
    if not cost:
        return Spending(options, whole, cost, f"{told}: it makes none")
    chosen = dict(options)
    if spends:
        chosen[spends] = _largest(name, options, method.facts, budget, counts)
        method = registry.build(name, chosen)
    sizes = range(min(LEAST_REFERENCES, whole), whole + 1)
    costs = [_cost(method, counts, size) or 0.0 for size in sizes]
    used = sizes[bisect.bisect_right(costs, max(budget, costs[0]) * (1 + 1e-9)) - 1]
    cost = costs[used - sizes[0]]
    with_it = f"{used} of {whole} references"
    if spends:
        with_it += f", {spends} = {chosen[spends]}"
    if cost > budget * (1 + 1e-9):
        note = f"{told}: costs {cost:.4g} with {with_it}"
    elif cost < NEARLY * budget and used == whole:
        note = f"{told}: costs {cost:.4g} with {with_it}, and has nothing to spend more on"
    else:
        note = f"{name}: {cost:.4g} of {budget:.4g} passes a candidate, with {with_it}"
    return Spending(chosen, used, cost, note)


def kept_to(
    session: Session,
    method: MethodConfig,
    counts: Counts,
    reference: Sequence[Example],
    student: ModelRef,
) -> tuple[MethodConfig, Sequence[Example]]:
    """The method with the options, and the references, that its budget allows.

    The oracle stays whole: the others are judged by it.
    """
    limit = method.budget
    free = method.model_copy(update={"budget": SpendingLimit()})
    if not limit.given:
        return free, reference
    if method.estimator == ORACLE:
        session.note(
            f"{ORACLE}: not held to scoring.budget, as the others are judged by it; as "
            "influbench.estimators.exact:Exact it is a method among them"
        )
        return free, reference
    passes = limit.passes_per_candidate
    if passes is None:
        assert limit.seconds is not None
        passes = limit.seconds * _pace(session, free, reference, student) / counts.candidates
    found = spend(method.estimator, method.options, passes, counts)
    session.note(found.note)
    drawn = sorted(reference, key=lambda e: digest(f"budget:{method.seed}:{e.id}"))
    names = {example.id for example in drawn[: found.references]}
    options = {"options": found.options}
    return free.model_copy(update=options), [e for e in reference if e.id in names]


def used(limit: SpendingLimit, ledger: Iterable[LedgerRow], candidates: int) -> dict[str, float]:
    """The share of its budget that a method spent, by the ledger of its scoring."""
    rows = [row for row in ledger if row.phase in ("prepare", "score")]
    if limit.passes_per_candidate:
        passes = sum(row.forward_passes + 2 * row.backward_passes for row in rows)
        return {"budget_used": passes / candidates / limit.passes_per_candidate}
    assert limit.seconds is not None
    return {"budget_used": sum(row.seconds for row in rows) / limit.seconds}


def _largest(
    name: str, options: dict[str, Any], facts: Facts, budget: float, counts: Counts
) -> int:
    """The largest value of its option that the budget allows; the least one if none does."""
    most = counts.warmup if "warmup" in facts.needs else MOST
    found = None
    for value in range(1, max(most, 1) + 1):
        try:
            method = registry.build(name, {**options, facts.spends: value})
        except UserError:  # too few, or an odd number
            continue
        cost = _cost(method, counts, counts.references)
        if found is not None and (cost is None or cost > budget * (1 + 1e-9)):
            break
        found = value
    return getattr(registry.build(name, options), facts.spends) if found is None else found


def _cost(method: Estimator, counts: Counts, references: int) -> float | None:
    """Passes of the student a candidate, preparation shared out; None where it is not told."""
    if "student" not in method.facts.needs:
        return 0.0
    sizes = {"M": float(references * (1 + counts.paired)), "W": float(counts.warmup)}
    options = options_of(method, counts.warmup)
    once, each = (spent(text, sizes, options) for text in method.facts.passes)
    if once is None or each is None:
        return None
    # Losses before any step, and once more where a gradient is taken (``derivatives.objective``).
    prepared = once.passes + (2 * sizes["M"] if counts.paired else 0.0)
    return prepared / counts.candidates + each.passes


def _pace(
    session: Session, method: MethodConfig, reference: Sequence[Example], student: ModelRef
) -> float:
    """Forward passes a second of the student over references, measured once on a device."""
    asked = method.model_copy(update={"estimator": ORACLE, "options": {}, "judge": None})
    inputs = reference[:PROBED], student, models.device_in_words(method.device)
    return float(session.run(PACE, asked, *inputs).meta["passes_per_second"])


def pace(
    cfg: MethodConfig, reference: Sequence[Example], student: ModelRef, _: str, *, work: Work
) -> None:
    """Measures how many forward passes over references the student makes in a second."""
    from influbench.derivatives import gradients
    from influbench.scoring.holding import hold

    held = hold(cfg, student, work)
    gradients.losses(held, reference)  # the first is slower
    began = time.perf_counter()
    gradients.losses(held, reference)
    work.meta["passes_per_second"] = len(reference) / (time.perf_counter() - began)


PACE = Stage("pace", 1, pace)
