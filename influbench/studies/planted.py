"""Planted bad candidates, each next to a control that looks the same on the surface.

A method that measures help must put the control above the bad one. Each kind is built so that
length and vocabulary say nothing:

* ``shuffled``: the response's words in random order; the control is the clean response. Same
  length, same bag of words. (Shuffled characters would make words that no reference has.)
* ``truncated``: the response ends in mid-sentence; the control ends after a whole sentence close
  by. The cut lies before the control's end in one half of the pairs and behind it in the other.
* ``off_topic``: clean responses of similar length swapped between instructions; the same set of
  texts stands on both sides.
* ``repeated``: one half of the response twice; the control is the clean response. First and second
  half, a little longer and a little shorter take turns.
* ``wrong_answer``: numbers of the response that the instruction does not name are replaced by
  others with as many digits, so the answer is wrong and nothing else; items without any are left
  out.

Detection is the area under the ROC curve: the chance that a control scores above a bad candidate
of its kind (all controls against all bad ones; ties count one half), and ``paired``, the same for a
bad candidate and its own control, which takes out what the items differ by. Intervals draw clean
examples, each with all that was made of it: one clean response is the control of several kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from influbench.data.records import Example, ResultRow
from influbench.errors import UserError
from influbench.estimator import Array
from influbench.files import digest
from influbench.results import row_of
from influbench.statistics import bootstrap
from influbench.statistics.bootstrap import RESAMPLES
from influbench.statistics.estimate import Estimate
from influbench.studies.planted_kinds import KINDS


@dataclass(frozen=True)
class PlantedPair:
    """A bad candidate and what it is to be told from, by their ids."""

    kind: str
    clean: str
    """The example that both were made of."""
    control: str
    bad: str


@dataclass(frozen=True)
class PlantedSet:
    """Candidates to score, and which of them are bad."""

    examples: tuple[Example, ...]
    """Each once; ``group`` is the id of the clean example that it was made of."""
    pairs: tuple[PlantedPair, ...]


@dataclass(frozen=True)
class Detection:
    """How well a method tells one kind from its controls."""

    kind: str
    """``all``: the plain mean over kinds."""
    auc: Estimate
    paired: Estimate


def plant(clean: Sequence[Example], seed: int, kinds: Sequence[str] = ()) -> PlantedSet:
    """Makes bad candidates and controls of clean examples.

    Args:
        clean: good instruction-response pairs, disjoint from the reference set.
        seed: of the shuffles and numbers.
        kinds: some of ``KINDS``; all by default.

    Raises:
        UserError: an unknown kind, or one that none of the examples lends itself to.
    """
    if unknown := sorted(set(kinds) - KINDS.keys()):
        raise UserError(f"planted kinds: expected some of {list(KINDS)}, got {unknown}")
    examples: dict[str, Example] = {}
    pairs: list[PlantedPair] = []
    for kind in kinds or KINDS:
        # In an order that no property of the texts has made, since makers take turns.
        order = sorted(clean, key=lambda e: digest(f"planted:{kind}:{seed}:{e.id}"))
        made = list(KINDS[kind](order, seed))
        if not made:
            raise UserError(
                f"planted kind '{kind}': none of the {len(clean)} examples lends itself to it: "
                "give more or longer ones, or leave the kind out"
            )
        for control, bad in made:
            examples |= {control.id: control, bad.id: bad}
            pairs.append(PlantedPair(kind, control.group, control.id, bad.id))
    return PlantedSet(tuple(examples.values()), tuple(pairs))


def detect(
    scores: Mapping[str, float],
    pairs: Sequence[PlantedPair],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> list[Detection]:
    """Detection of each kind, and of ``all``, with intervals over clean examples.

    Args:
        scores: by candidate id; higher = helps more.
        pairs: what to tell apart.
        rng: the only source of randomness.
        resamples: of the bootstrap.

    Raises:
        UserError: a candidate has no score.
    """
    if missing := sorted({i for p in pairs for i in (p.control, p.bad)} - scores.keys()):
        raise UserError(f"expected a score for every planted candidate, '{missing[0]}' has none")
    kinds = list(dict.fromkeys(pair.kind for pair in pairs))
    clean = {name: i for i, name in enumerate(dict.fromkeys(pair.clean for pair in pairs))}
    tables = {}
    for kind in kinds:
        own = [pair for pair in pairs if pair.kind == kind]
        control = np.array([scores[p.control] for p in own], dtype=np.float64)
        bad = np.array([scores[p.bad] for p in own], dtype=np.float64)
        above = (1 + np.sign(control[:, None] - bad[None, :])) / 2
        tables[kind] = above, np.array([clean[p.clean] for p in own])
    seed = int(rng.integers(2**62))

    def found(name: str, part: Sequence[str]) -> Detection:
        used = np.unique(np.concatenate([tables[kind][1] for kind in part]))
        estimates = [
            bootstrap.interval(
                used,
                lambda drawn, rate=rate: _mean_over([tables[kind] for kind in part], rate, drawn),
                np.random.default_rng(seed),
                resamples,
            )
            for rate in (_area, _diagonal)
        ]
        return Detection(name, *estimates)

    return [*(found(kind, [kind]) for kind in kinds), found("all", kinds)]


def result_rows(found: Sequence[Detection], base: ResultRow) -> list[ResultRow]:
    """``auc_<kind>`` and ``paired_<kind>`` (``auc``, ``paired`` for all kinds) with intervals."""
    rows: list[ResultRow] = []
    for item in found:
        suffix = "" if item.kind == "all" else f"_{item.kind}"
        for metric, value in (("auc", item.auc), ("paired", item.paired)):
            rows.append(row_of(base, metric + suffix, value))
    return rows


def _mean_over(
    tables: Sequence[tuple[Array, np.ndarray]],
    rate: Callable[[Array, Array], float],
    drawn: np.ndarray,
) -> float:
    """The plain mean of ``rate`` over kinds, each pair as often as its clean example is drawn."""
    times = np.bincount(drawn, minlength=max(int(clean.max()) for _, clean in tables) + 1)
    return float(np.mean([rate(above, times[clean].astype(np.float64)) for above, clean in tables]))


def _area(above: Array, weight: Array) -> float:
    return float(weight @ above @ weight / weight.sum() ** 2) if weight.any() else np.nan


def _diagonal(above: Array, weight: Array) -> float:
    return float(above.diagonal() @ weight / weight.sum()) if weight.any() else np.nan
