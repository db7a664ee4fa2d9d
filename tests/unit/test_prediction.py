import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from influbench.data.records import LedgerRow, ResultRow
from influbench.errors import UserError
from influbench.studies import prediction
from influbench.studies.break_even import break_even, equal_share
from influbench.studies.kinds.prediction import PredictionStudyConfig, repaid
from influbench.studies.prediction import Trained

SCORES = {f"c{i:02d}": float(i) for i in range(12)}
BASE = ResultRow(
    study="s",
    run="r",
    estimator="e",
    round=1,
    seed=0,
    metric="",
    value=0,
    stderr=None,
    n=0,
    unit="",
)


def trained(part, ids, gain, seed=0):
    return Trained(part, seed, tuple(ids), gain, 2.0 - gain)


def test_thirds_are_the_ends_and_the_middle():
    parts = prediction.thirds(SCORES)
    assert set(parts["top"]) == {"c11", "c10", "c09", "c08"}
    assert set(parts["middle"]) == {"c07", "c06", "c05", "c04"}
    assert set(parts["bottom"]) == {"c03", "c02", "c01", "c00"}
    fourteen = {f"c{i:02d}": float(i) for i in range(14)}
    parts = prediction.thirds(fourteen)
    assert [len(ids) for ids in parts.values()] == [4, 4, 4]
    assert not set(parts["top"]) & set(parts["middle"])
    assert not set(parts["middle"]) & set(parts["bottom"])
    with pytest.raises(UserError, match="3 candidates or more, got 2"):
        prediction.thirds({"a": 1.0, "b": 2.0})


def test_equal_scores_are_not_ordered_by_position():
    same = dict.fromkeys(SCORES, 1.0)
    assert prediction.thirds(same) == prediction.thirds(dict(reversed(same.items())))
    assert prediction.thirds(same)["top"] != tuple(sorted(same))[:4]


def test_subsets_depend_on_seed_and_not_on_order():
    names = list(SCORES)
    first = prediction.subset(names, 0.5, "bank:0:0")
    assert len(first) == 6
    assert first == prediction.subset(names[::-1], 0.5, "bank:0:0")
    assert set(first) != set(prediction.subset(names, 0.5, "bank:0:1"))


def test_gains_and_their_correlation_by_hand():
    parts = prediction.thirds(SCORES)
    gains = {"top": (0.5, 0.7), "middle": (0.3, 0.3), "bottom": (0.1, -0.1)}
    found = [
        trained(p, parts[p], g, seed) for p, both in gains.items() for seed, g in enumerate(both)
    ]
    rows = {r.metric: r for r in prediction.result_rows(SCORES, found, [], BASE)}
    assert rows["gain_top"].value == pytest.approx(0.6)
    assert rows["gain_bottom"].value == pytest.approx(0.0)
    assert rows["gain_top_minus_bottom"].value == pytest.approx(0.6)
    stderr = np.std([0.4, 0.8], ddof=1) / math.sqrt(2)
    assert rows["gain_top_minus_bottom"].stderr == pytest.approx(stderr)
    assert rows["gain_top_minus_bottom"].low == pytest.approx(0.6 - 12.7062 * stderr, rel=1e-4)
    means = [9.5, 9.5, 5.5, 5.5, 1.5, 1.5]
    expected = np.corrcoef(means, [0.5, 0.7, 0.3, 0.3, 0.1, -0.1])[0, 1]
    assert rows["gain_correlation"].value == pytest.approx(expected)
    assert "lds" not in rows


def test_lds_is_the_rank_correlation_of_summed_scores_with_gains():
    names = sorted(SCORES)
    subsets = [names[i : i + 6] for i in range(6)]
    found = [trained(p, ids, 0.0) for p, ids in prediction.thirds(SCORES).items()]
    for sign in (1, -1):
        banked = [trained("bank", ids, sign * math.exp(i)) for i, ids in enumerate(subsets)]
        rows = {r.metric: r for r in prediction.result_rows(SCORES, found, banked, BASE)}
        assert rows["lds"].value == pytest.approx(sign)
        assert rows["lds"].n == 6
    assert "gain_correlation" not in rows  # all gains equal: undefined


def test_shares_are_the_top_and_what_it_leaves():
    parts = prediction.shares(SCORES, (25, 100))
    assert set(parts) == {"addition_25", "removal_25", "addition_100"}
    assert set(parts["addition_25"]) == {"c11", "c10", "c09"}
    assert set(parts["removal_25"]) == SCORES.keys() - {"c11", "c10", "c09"}


def test_curves_are_rows_of_the_loss_and_leave_the_correlation_of_thirds_alone():
    thirds = [trained(p, ids, 0.1) for p, ids in prediction.thirds(SCORES).items()]
    curve = [trained("addition_25", ["c11"], gain, seed) for seed, gain in enumerate((0.5, 0.7))]
    rows = {r.metric: r for r in prediction.result_rows(SCORES, [*thirds, *curve], [], BASE)}
    row = rows["addition_25/heldout_loss"]
    assert row.value == pytest.approx(1.4)
    assert row.low is not None
    assert row.high is not None
    assert row.low < 1.4 < row.high
    assert (row.n, row.unit) == (2, "nats/token")
    assert "gain_correlation" not in rows  # the thirds' gains are all equal


def test_a_selection_pays_where_it_saves_more_training_than_its_scores_cost():
    random = {0.25: 3.0, 0.5: 2.5, 1.0: 2.0}
    found = break_even(0.25, 2.75, random, prepare=100.0, score=2.0)
    assert found.share == pytest.approx(0.375)  # half way between 0.25 and 0.5
    assert found.ratio == pytest.approx(2.0 / (3 * 0.125))
    assert found.candidates == pytest.approx(100.0 / (3 * 10 * 0.125 - 2.0))
    assert not found.at_least


def test_a_selection_no_better_than_random_never_pays_and_one_beyond_it_says_at_least():
    random = {0.25: 3.0, 0.5: 3.1, 1.0: 2.0}
    never = break_even(0.25, 3.2, random, 100.0, 2.0)
    assert (never.share, never.ratio, never.candidates) == (0.25, math.inf, math.inf)
    beyond = break_even(0.25, 1.5, random, 100.0, 2.0)
    assert (beyond.share, beyond.at_least) == (1.0, True)
    dear = break_even(0.25, 2.0, random, 100.0, 50.0)
    assert dear.candidates == math.inf
    assert dear.ratio == pytest.approx(50 / (3 * 0.75))


def test_the_share_of_random_rows_does_not_jump_where_more_of_them_did_worse():
    random = {0.1: 3.0, 0.25: 3.2, 0.5: 2.5, 1.0: 2.6}
    just_better = equal_share(3.0 - 1e-9, random)
    assert just_better == (pytest.approx(0.1), False)
    assert equal_share(3.0, random) == (pytest.approx(0.1), False)
    assert equal_share(2.75, random)[0] == pytest.approx(0.3)  # half way from 0.1 to 0.5
    assert equal_share(2.4, random) == (1.0, True)


def test_a_selection_repays_its_scores_just_where_training_random_rows_costs_as_much():
    """Counted row by row: both ways reach one loss, and cost the same at R and at N."""
    random, share, score, prepare, dearer = {0.25: 3.0, 0.5: 2.5, 1.0: 2.0}, 0.25, 2.0, 90.0, 10.0
    found = break_even(share, 2.6, random, prepare, score, dearer)

    def passes(rows, ratio):
        return rows * 3 * ratio

    many = 10**9
    selecting = prepare + many * score + passes(share * many, found.ratio)
    assert selecting == pytest.approx(passes(found.share * many, found.ratio), rel=1e-6)
    count = found.candidates
    selecting = prepare + count * score + passes(share * count, dearer)
    assert selecting == pytest.approx(passes(found.share * count, dearer))


def test_what_pays_in_one_seed_only_is_told_of_every_seed_by_its_share():
    """The shares are of the rows that were trained on: 3 and 14 of 27, not 10 and 50 %."""
    cfg = PredictionStudyConfig.model_validate(
        {
            "student": {"name": "tiny"},
            "methods": ["loss", "random"],
            "num_candidates": 36,
            "prediction": {"curve": [10, 50]},
        }
    )
    cost = LedgerRow(
        stage="score", label="loss", phase="score", items=36, seconds=1.0, device_seconds=0.0,
        peak_bytes=0, forward_passes=36, backward_passes=0, tokens=0, api_calls=0,
        api_prompt_tokens=0, api_completion_tokens=0, money=0.0, attempts=1,
    )  # fmt: skip
    scored = SimpleNamespace(scores={"loss": (), "random": ()}, ledger=[cost])
    notes = SimpleNamespace(note=lambda _: None)
    losses = {("random", 10): 3.0, ("random", 50): 2.0}
    for loss, share in ((2.5, 3 / 27 + 0.5 * 11 / 27), (3.1, 3 / 27)):
        told = losses | {("loss", 10): loss, ("loss", 50): 2.0}
        rows = [
            replace(BASE, estimator=arm, metric=f"addition_{p}/heldout_loss", value=value)
            for (arm, p), value in told.items()
        ]
        found = {r.metric: r.value for r in repaid(cfg, rows, cast(Any, scored), cast(Any, notes))}
        assert found["break_even_share"] == pytest.approx(share)
        pays = share > 3 / 27
        assert ("break_even_ratio" in found) is pays
        if pays:
            assert found["break_even_ratio"] == pytest.approx(1 / (3 * (share - 3 / 27)))


def test_lds_by_brute_force_on_a_shared_bank_with_equal_scores():
    """Gains that add up are told perfectly by the true effects, and ranks with ties as scipy has.

    Every method is held against one bank of halves that no score has chosen.
    """
    rng = np.random.default_rng(5)
    names = [f"c{i:02d}" for i in range(36)]
    effects = dict(zip(names, rng.normal(size=36), strict=True))
    trainings = Recorder(effects)
    banked = prediction.bank(cast(Any, trainings), seed=3)
    assert [len(t.ids) for t in banked] == [18] * 64
    assert len({t.ids for t in banked}) == 64
    assert trainings.asked == 1
    used = np.array([sum(name in t.ids for t in banked) for name in names])
    assert 16 <= used.min() <= used.max() <= 48  # 32 of 64, give or take four standard deviations
    thirds = [trained(p, ids, 0.0) for p, ids in prediction.thirds(effects).items()]
    coarse = {name: float(round(value)) for name, value in effects.items()}
    for scores in (effects, coarse, {name: -value for name, value in effects.items()}):
        rows = {r.metric: r for r in prediction.result_rows(scores, thirds, banked, BASE)}
        summed = [sum(scores[name] for name in t.ids) for t in banked]
        summed = np.round(summed, 9)  # sums of whole numbers are equal, whatever their order
        expected = cast(Any, stats.spearmanr(summed, [t.gain for t in banked])).statistic
        assert rows["lds"].value == pytest.approx(expected)
    assert rows["lds"].value == pytest.approx(-1.0)


class Recorder:
    """Trainings whose gain is the sum of what their rows bring."""

    def __init__(self, effects):
        self.candidates, self.effects, self.asked = effects, effects, 0
        self.cfg = prediction.PredictionConfig(bank=64)

    def gains(self, parts, seed):
        self.asked += 1
        return [trained(p, ids, sum(self.effects[i] for i in ids), seed) for p, ids in parts]
