"""The candidates of a study as the page's browser wants them: columns, not rows.

Runs of a study share candidates: arms of one seed are scored on the same ones. Runs whose scores
agree stand together as one set, so that the page holds every candidate once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from influbench.data.records import Candidate, Example, Score
from influbench.errors import UserError
from influbench.loop import arms, preferences
from influbench.report.page.texts import Texts, Words
from influbench.results import Study
from influbench.results.axes import leaves
from influbench.results.result_file import RunResult
from influbench.results.score_files import ScoreFile

DIGITS = 6
"""Significant digits of a score on the page."""

Chosen = tuple[str, str, float]
"""Ids of the chosen and the rejected candidate, and their margin."""


@dataclass(kw_only=True)
class CandidateSet:
    """Candidates that were scored together."""

    name: str
    groups: Mapping[str, str]
    scores: dict[str, Sequence[Score]]
    """By estimator."""
    texts: Sequence[Example] | None = None
    """In the order of the first estimator's scores; None where they are not known."""
    pairs: dict[str, Sequence[Chosen]] = field(default_factory=dict)
    """By arm, where its pairs could be made again."""
    words: Mapping[str, Sequence[Words]] = field(default_factory=dict)
    """What judges said, by id."""

    @property
    def ids(self) -> list[str]:
        """In the order of the first estimator's scores."""
        return [score.id for score in next(iter(self.scores.values()))]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; a candidate is its place in ``ids``."""
        ids = self.ids
        places = {name: place for place, name in enumerate(ids)}
        by_id = {
            name: {score.id: score for score in several} for name, several in self.scores.items()
        }
        doubted = [n for n, several in by_id.items() if any(s.stderr for s in several.values())]
        return {
            "name": self.name,
            "ids": ids,
            "groups": [self.groups.get(name, "") for name in ids],
            "scores": {
                name: [_short(found[i].value) if i in found else None for i in ids]
                for name, found in by_id.items()
            },
            "stderr": {
                name: [_short(by_id[name][i].stderr) if i in by_id[name] else None for i in ids]
                for name in doubted
            },
            "texts": None
            if self.texts is None
            else [[example.question, example.response, example.finished] for example in self.texts],
            "pairs": {
                arm: [[places[chosen], places[other], _short(gap)] for chosen, other, gap in pairs]
                for arm, pairs in self.pairs.items()
            },
            "words": {str(places[name]): said for name, said in self.words.items()},
        }


def sets_of(study: Study, texts: Texts) -> list[CandidateSet]:
    """The candidates of a study's runs, each once, with their texts and pairs where known.

    Raises:
        UserError: see :meth:`Texts.of`.
    """
    found: list[tuple[tuple[Any, ...], CandidateSet]] = []
    for run, result in study.runs.items():
        if not result.scores:
            continue
        scores = {name: tuple(several) for name, several in result.scores.items()}
        place = _place(study, result)
        own = next((s for where, s in found if _same(where, place, s, scores)), None)
        if own is None:
            own = CandidateSet(name=f"{study.name}: {run}", groups=result.groups, scores={})
            found.append((place, own))
        own.scores |= scores
        _add_texts(own, scores, result, texts)
    return [own for _, own in found]


def set_of_files(files: Sequence[ScoreFile], texts: Texts) -> list[CandidateSet]:
    """Score files about the same candidates as one set each, methods side by side.

    Raises:
        UserError: see :meth:`Texts.of`.
    """
    found: list[CandidateSet] = []
    for file in files:
        ids = {score.id for score in file.scores}
        own = next((s for s in found if set(s.ids) == ids), None)
        if own is None:
            own = CandidateSet(name=file.name, groups=file.groups, scores={})
            found.append(own)
        own.scores[file.name] = file.scores
    for own in found:
        if len(own.scores) > 1:
            own.name = f"{len(own.scores)} score files"
        own.texts = _examples(texts.of(own.scores))
        own.words = {} if own.texts is None else texts.said(own.texts)
    return found


def _place(study: Study, result: RunResult) -> tuple[Any, ...]:
    """Where a run stands, beside its arm."""
    settings = leaves(result.config)
    # From the second round on the candidates are those of a taught teacher: each arm has its own.
    later = settings.get("scoring.estimator") if settings.get("rounds", 1) != 1 else None
    return (settings.get("seed"), later, *(settings.get(axis) for axis in study.axes))


def _same(
    where: tuple[Any, ...],
    place: tuple[Any, ...],
    known: CandidateSet,
    scores: Mapping[str, Sequence[Score]],
) -> bool:
    shared = known.scores.keys() & scores.keys()
    if shared:
        return all(tuple(known.scores[name]) == scores[name] for name in shared)
    return where == place and set(known.ids) == {s.id for s in next(iter(scores.values()))}


def _add_texts(
    own: CandidateSet, scores: Mapping[str, Sequence[Score]], result: RunResult, texts: Texts
) -> None:
    found = texts.of(scores)
    if found is None:
        return
    if own.texts is None:
        order = {name: place for place, name in enumerate(own.ids)}
        own.texts = sorted(_examples(found) or (), key=lambda example: order[example.id])
        own.words = texts.said(own.texts)
    candidates = [one for one in found if isinstance(one, Candidate)]
    if candidates:
        own.pairs |= _pairs(candidates, scores, result)


def _pairs(
    candidates: Sequence[Candidate], scores: Mapping[str, Sequence[Score]], result: RunResult
) -> dict[str, Sequence[Chosen]]:
    """The pairs that taught a run's teacher, made again; none unless they are as many as then."""
    name = str(leaves(result.config).get("scoring.estimator", ""))
    counted = [r.value for r in result.rows if r.metric == "pairs" and r.estimator == name]
    if not counted:
        return {}
    arm = arms.parse(name)
    floors = [
        r.value for r in result.rows if r.metric == "noise_floor" and r.estimator == arm.estimator
    ]
    try:
        settings = preferences.PreferenceConfig(**result.config["preferences"])
        pairs = preferences.build_pairs(
            settings, candidates, scores[arm.estimator], floors[-1] if floors else None
        )
    except (KeyError, TypeError, ValueError, UserError):  # settings of another version
        return {}
    if arm.way == "flipped":
        pairs = arms.flipped(pairs)
    if len(pairs) != counted[-1]:
        return {}
    return {name: [(pair.chosen_id, pair.rejected_id, pair.margin) for pair in pairs]}


def _examples(found: Sequence[Candidate] | Sequence[Example] | None) -> list[Example] | None:
    if found is None:
        return None
    return [one.example() if isinstance(one, Candidate) else one for one in found]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
