"""Candidates and their scores to DPO pairs: five rules, siblings only, ties never.

The paper's rule is ``sign``: in each group every candidate with a positive score beats every one
with a negative score (Montessori-Instruct, arXiv 2410.14208; its ``construct_dpo_dataset``).
Its zero carries the drift of stale momentum, and a difference that is only noise counts like any
other; the other rules need no zero, and ``margin`` asks for evidence. ``medium`` leaves out the
pairs that differ most along with those that differ least: Truncated Influence Function (arXiv
2510.13212) finds pairs of medium influence the best to train a preference model on, half of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Literal

from pydantic import Field

from influbench.config import Config
from influbench.data.records import Candidate, Pair, Score
from influbench.errors import UserError
from influbench.estimator import Scale
from influbench.files import digest
from influbench.statistics.agreement import difference_stderr

Rule = Literal["sign", "best_worst", "margin", "rank", "medium"]

MEDIUM = 0.5
"""Share of the pairs that ``medium`` keeps, of margins in the middle."""


class PreferenceConfig(Config):
    """How scores become pairs."""

    rule: Rule = Field(
        default="sign",
        description="sign: every positive beats every negative sibling (the paper); best_worst: "
        "one pair a group; margin: differences of margin_stderrs standard errors; rank: all pairs; "
        "medium: the half of them whose margins are in the middle",
    )
    margin_stderrs: float = Field(
        default=2.0, gt=0, description="margin rule: standard errors that a difference must exceed"
    )
    noise_floor: float | None = Field(
        default=None,
        ge=0,
        description="differences at or below it, in score units, are ties; None = what the run "
        "measured of the estimator, 0 where it measured nothing",
    )
    equal_count: int | None = Field(
        default=None,
        gt=0,
        description="keep exactly this many pairs, the same number for every estimator",
    )


def allowed_rules(scale: Scale) -> tuple[Rule, ...]:
    """The rules that make sense for a scale; ``margin`` also needs a standard error."""
    if scale == "rank":
        return ("best_worst", "margin", "rank", "medium")
    return ("sign", "best_worst", "margin", "rank", "medium")


def check(rule: Rule, scale: Scale, has_stderr: bool) -> None:
    """Refuses a rule that the scores of an estimator cannot support; called before a run starts.

    Raises:
        UserError: ``sign`` on a scale without a zero, or ``margin`` without standard errors.
    """
    if rule not in allowed_rules(scale):
        raise UserError(
            f"preferences.rule={rule} needs scores with a zero, got an estimator of scale "
            f"'{scale}': use one of {list(allowed_rules(scale))}"
        )
    if rule == "margin" and not has_stderr:
        raise UserError(
            "preferences.rule=margin needs scores with standard errors, got an estimator without: "
            "use best_worst or rank, or the 'exact' estimator"
        )


def build_pairs(
    cfg: PreferenceConfig,
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    measured_floor: float | None = None,
) -> list[Pair]:
    """Pairs of siblings, by group in the order of ``candidates``, widest margin first.

    Siblings share the group and the exact teacher prompt. Two candidates with the same raw
    completion are never paired, whatever their scores.

    Args:
        cfg: the rule.
        candidates: siblings, in the order written.
        scores: one a candidate.
        measured_floor: the scores' own noise, in their unit, where the run measured it; it holds
            unless ``cfg.noise_floor`` says otherwise.

    Raises:
        UserError: scores and candidates are not about the same ids; ``margin`` without standard
            errors; fewer than ``equal_count`` pairs.
    """
    by_id = _join(candidates, scores)
    if cfg.noise_floor is None:
        cfg = cfg.model_copy(update={"noise_floor": measured_floor or 0.0})
    siblings: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        siblings[candidate.group, candidate.teacher_prompt].append(candidate)
    ranked = [_ranked(cfg, family, by_id) for family in siblings.values()]
    if cfg.rule == "medium":
        ranked = _medium(ranked)
    if cfg.equal_count is None:
        return [pair for family in ranked for pair in family]
    return _keep(ranked, cfg.equal_count, cfg.rule)


def of_responses(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same as siblings that share an instruction: pairs of them are of two responses to it."""
    return [
        replace(
            candidate,
            teacher_prompt=candidate.response_prompt,
            raw_completion=candidate.raw_response,
            prompt_ids=candidate.response_prompt_ids,
            completion_ids=candidate.response_ids,
        )
        for candidate in candidates
    ]


def _join(candidates: Sequence[Candidate], scores: Sequence[Score]) -> dict[str, Score]:
    for what, ids in (
        ("candidates", [c.id for c in candidates]),
        ("scores", [s.id for s in scores]),
    ):
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise UserError(
                f"expected {what} with unique ids, got '{twice}' twice: give each its own"
            )
    by_id = {s.id: s for s in scores}
    known = {c.id for c in candidates}
    if odd := sorted(known ^ by_id.keys()):
        side = "has no score" if odd[0] in known else "is not among the candidates"
        raise UserError(
            f"expected one score for each of {len(known)} candidates, got {len(by_id)}: id "
            f"'{odd[0]}' {side} ({len(odd)} such ids); score these candidates again"
        )
    return by_id


def _ranked(
    cfg: PreferenceConfig, family: Sequence[Candidate], scores: dict[str, Score]
) -> list[Pair]:
    """The pairs of one family of siblings: widest margin first, then by a digest of the id.

    A digest, since ids often number siblings in the order sampled, and neither end may win ties.
    """
    kept = [
        pair
        for pair in _ordered(family, scores)
        if pair.margin > (cfg.noise_floor or 0.0) and _holds(cfg, pair, scores)
    ]
    kept.sort(key=lambda pair: (-pair.margin, digest(pair.id)))
    return kept[:1] if cfg.rule == "best_worst" else kept


def _medium(ranked: Sequence[Sequence[Pair]]) -> list[list[Pair]]:
    """The pairs whose margins are in the middle, over all families together; order as it was."""
    order = sorted(
        (pair for pairs in ranked for pair in pairs), key=lambda p: (p.margin, digest(p.id))
    )
    count = round(MEDIUM * len(order)) or min(1, len(order))
    first = (len(order) - count) // 2
    kept = {pair.id for pair in order[first : first + count]}
    return [[pair for pair in pairs if pair.id in kept] for pairs in ranked]


def _ordered(family: Sequence[Candidate], scores: dict[str, Score]) -> Iterator[Pair]:
    for better, worse in permutations(family, 2):
        margin = scores[better.id].value - scores[worse.id].value
        if margin > 0 and better.raw_completion != worse.raw_completion:
            yield Pair(
                id=f"{better.id}>{worse.id}",
                group=better.group,
                prompt=better.teacher_prompt,
                chosen=better.raw_completion,
                rejected=worse.raw_completion,
                chosen_id=better.id,
                rejected_id=worse.id,
                margin=margin,
                prompt_ids=better.prompt_ids,
                chosen_ids=better.completion_ids,
                rejected_ids=worse.completion_ids,
            )


def _holds(cfg: PreferenceConfig, pair: Pair, scores: dict[str, Score]) -> bool:
    chosen, rejected = scores[pair.chosen_id], scores[pair.rejected_id]
    if cfg.rule == "sign":
        return chosen.value > 0 > rejected.value
    if cfg.rule == "margin":
        stderr = difference_stderr(chosen, rejected)
        if stderr is None:
            raise UserError(
                f"preferences.rule=margin needs standard errors, got scores '{chosen.id}' and "
                f"'{rejected.id}' without: use best_worst or rank, or an estimator that has them"
            )
        return pair.margin > cfg.margin_stderrs * stderr
    return True


def _keep(ranked: Sequence[Sequence[Pair]], count: int, rule: Rule) -> list[Pair]:
    """Exactly ``count`` pairs: every family's widest first, then every family's second, and so on.

    Margins of two estimators have different units, and within one estimator a few families may have
    far larger margins than the rest, so margins are never compared across families. Which families
    give one pair more in the last round follows a digest of their group, which no score can move:
    estimators that pair the same families keep the same families.
    """
    total = sum(map(len, ranked))
    if total < count:
        raise UserError(
            f"preferences.equal_count={count} but rule '{rule}' gives only {total} pairs: lower "
            "it, or use rule=rank, or more candidates"
        )
    order = sorted(
        (place, digest(f"{pair.group}\n{pair.prompt}"), family)
        for family, pairs in enumerate(ranked)
        for place, pair in enumerate(pairs)
    )
    kept = {(family, place) for place, _, family in order[:count]}
    return [
        pair
        for family, pairs in enumerate(ranked)
        for place, pair in enumerate(pairs)
        if (family, place) in kept
    ]
