from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from influbench import data
from influbench.data.records import Example, ResultRow
from influbench.errors import UserError
from influbench.estimator import Context
from influbench.estimators.bm25 import Bm25
from influbench.estimators.length import Length
from influbench.estimators.random import Random
from influbench.studies import planted
from influbench.studies.planted_kinds import KINDS

SPLIT = {split: data.load_starter(split) for split in ("seed", "reference")}
PLANTED = planted.plant(SPLIT["seed"], seed=0)
BY_ID = {e.id: e for e in PLANTED.examples}


def of(kind):
    return [(BY_ID[p.control], BY_ID[p.bad]) for p in PLANTED.pairs if p.kind == kind]


def detected(estimator):
    ctx = Context(
        student=None,  # pyright: ignore[reportArgumentType]
        reference=SPLIT["reference"],
        warmup=[],
        scratch=Path(),
        seed=0,
    )
    scored = estimator.prepare(ctx)(PLANTED.examples)
    values = scored.value if hasattr(scored, "value") else scored
    scores = {e.id: float(v) for e, v in zip(PLANTED.examples, values, strict=True)}
    found = planted.detect(scores, PLANTED.pairs, np.random.default_rng(0), resamples=50)
    return {item.kind: item for item in found}


def test_every_kind_has_pairs_of_its_own_items():
    assert Counter(p.kind for p in PLANTED.pairs).keys() == KINDS.keys()
    assert min(Counter(p.kind for p in PLANTED.pairs).values()) >= 20
    for pair in PLANTED.pairs:
        control, bad = BY_ID[pair.control], BY_ID[pair.bad]
        assert control.group == bad.group
        assert control.instruction == bad.instruction
        assert control.response != bad.response
        assert bad.response.strip()


def test_shuffled_keeps_the_words_and_their_length():
    for control, bad in of("shuffled"):
        assert sorted(control.response.split()) == sorted(bad.response.split())
        assert len(control.response) == len(bad.response)


def test_truncated_ends_in_mid_sentence_near_the_control():
    for control, bad in of("truncated"):
        assert control.response.rstrip("\"')")[-1] in ".!?"
        assert bad.response.startswith(control.response) or control.response.startswith(
            bad.response
        )
    longer = [len(b.response) > len(c.response) for c, b in of("truncated")]
    assert abs(sum(longer) - len(longer) / 2) <= 1


def test_off_topic_has_the_same_texts_on_both_sides():
    sides = zip(*((c.response, b.response) for c, b in of("off_topic")), strict=True)
    left, right = map(sorted, sides)
    assert left == right


def test_repeated_says_one_half_twice():
    for control, bad in of("repeated"):
        half = bad.response[: len(bad.response) // 2].strip()
        assert bad.response == f"{half} {half}"
        assert half in control.response
    longer = [len(b.response) > len(c.response) for c, b in of("repeated")]
    assert abs(sum(longer) - len(longer) / 2) <= 2


def test_wrong_answer_changes_only_numbers_that_were_not_given():
    example = Example(
        id="a", instruction="Add 12 and 30.", response="1. Add 12 and 30.\n2. The sum is 42, so 42."
    )
    ((control, bad),) = KINDS["wrong_answer"]([example], 0)
    assert control.response == example.response
    before, after = control.response.split("is "), bad.response.split("is ")
    assert before[0] == after[0]
    first, second = after[1].removesuffix(".").split(", so ")
    assert first == second != "42"
    assert len(first) == 2


def test_the_same_seed_plants_the_same():
    backwards = SPLIT["seed"][::-1]
    again = planted.plant(backwards, seed=0)
    kinds = [k for k in KINDS if k != "off_topic"]  # equal lengths keep the order given
    for kind in kinds:
        assert [p for p in again.pairs if p.kind == kind] == [
            p for p in PLANTED.pairs if p.kind == kind
        ]
    assert planted.plant(SPLIT["seed"], seed=1) != PLANTED


def test_a_perfect_scorer_has_auc_one_and_the_reverse_zero():
    bad = {p.bad for p in PLANTED.pairs}
    scores = {e.id: float(e.id not in bad) for e in PLANTED.examples}
    for sign, auc in ((1, 1.0), (-1, 0.0)):
        signed = {name: sign * value for name, value in scores.items()}
        found = planted.detect(signed, PLANTED.pairs, np.random.default_rng(0), resamples=20)
        assert {item.kind for item in found} == {*KINDS, "all"}
        assert all((i.auc.value, i.auc.low, i.paired.value) == (auc, auc, auc) for i in found)


def test_a_constant_scorer_is_chance():
    found = planted.detect(
        dict.fromkeys(BY_ID, 1.0), PLANTED.pairs, np.random.default_rng(0), resamples=20
    )
    assert all((i.auc.value, i.paired.value) == (0.5, 0.5) for i in found)


def test_random_length_and_words_are_near_chance_by_construction():
    for estimator, tolerance in ((Random(), 0.1), (Length(), 0.03), (Bm25(), 0.1)):
        for kind, item in detected(estimator).items():
            assert item.auc.value == pytest.approx(0.5, abs=tolerance), (estimator, kind)
    for kind, item in detected(Length()).items():
        assert item.paired.value == pytest.approx(0.5, abs=0.05), kind


def test_auc_by_hand():
    pairs = [planted.PlantedPair("k", "a", "a", "x"), planted.PlantedPair("k", "b", "b", "y")]
    scores = {"a": 3.0, "b": 1.0, "x": 2.0, "y": 1.0}
    (found, both) = planted.detect(scores, pairs, np.random.default_rng(0), resamples=20)
    assert found.auc.value == (1 + 1 + 0 + 0.5) / 4
    assert found.paired.value == (1 + 0.5) / 2
    assert both.auc == found.auc
    base = ResultRow(
        study="s", run="r", estimator="e", round=1, seed=0,
        metric="", value=0, stderr=None, n=0, unit="",
    )  # fmt: skip
    rows = {r.metric: r for r in planted.result_rows([found, both], base)}
    assert rows["auc_k"].value == rows["auc"].value == 0.625
    assert rows["paired_k"].value == 0.75
    low, high = rows["auc_k"].low, rows["auc_k"].high
    assert low is not None
    assert high is not None
    assert low <= 0.625 <= high


def test_kinds_that_share_their_controls_do_not_narrow_the_interval():
    """Five kinds made of the same examples with the same scores say no more than one."""
    rng = np.random.default_rng(0)
    scores = {f"{side}{i}": float(rng.normal()) for side in "cb" for i in range(12)}
    kinds = [
        planted.PlantedPair(kind, f"c{i}", f"c{i}", f"b{i}") for kind in "vwxyz" for i in range(12)
    ]
    *each, together = planted.detect(scores, kinds, np.random.default_rng(1), resamples=200)
    assert together.auc == each[0].auc
    assert together.auc.n == 12
    low, high = together.auc.bounds
    assert high - low > 0.2


def test_mistakes_are_named():
    with pytest.raises(UserError, match="expected some of"):
        planted.plant(SPLIT["seed"], 0, ["mangled"])
    with pytest.raises(UserError, match="'wrong_answer': none of the 1 examples"):
        planted.plant(
            [Example(id="a", instruction="Say it.", response="Words only.")], 0, ["wrong_answer"]
        )
    with pytest.raises(UserError, match="has none"):
        planted.detect({}, PLANTED.pairs, np.random.default_rng(0))


def test_auc_with_ties_is_the_mann_whitney_statistic_of_each_kind_and_their_mean():
    rng = np.random.default_rng(2)
    pairs = [
        planted.PlantedPair(kind, f"a{i}", f"c{kind}{i}", f"b{kind}{i}")
        for kind, count in (("k", 9), ("l", 5))
        for i in range(count)
    ]
    scores = {name: float(rng.integers(4)) for p in pairs for name in (p.control, p.bad)}
    *kinds, both = planted.detect(scores, pairs, np.random.default_rng(0), resamples=20)
    areas = []
    for found in kinds:
        own = [p for p in pairs if p.kind == found.kind]
        control, bad = [scores[p.control] for p in own], [scores[p.bad] for p in own]
        areas.append(float(cast(Any, stats.mannwhitneyu(control, bad)).statistic) / len(own) ** 2)
        assert found.auc.value == pytest.approx(areas[-1])
    assert both.auc.value == pytest.approx(np.mean(areas))
