"""The switches of paper mode, the noise floor, groups and steps, against closed forms."""

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import oracles
import pytest
import torch
from scipy import stats

from influbench import testing
from influbench.data.records import Candidate, Score
from influbench.derivatives import step
from influbench.errors import UserError
from influbench.estimator import Context, as_scores
from influbench.estimator.registry import build
from influbench.estimators.exact import PAPER_MODE, Exact
from influbench.scoring import noise_floor, regrouped
from influbench.student import LanguageStudent
from influbench.studies import horizon, paper_mode
from influbench.studies.kinds import horizon as horizons
from influbench.studies.trajectory import losses_along
from influbench.testing import student_state

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=6)
CX, CY = RNG.normal(size=(5, 3)), RNG.normal(size=5)
W0 = np.array([0.4, -1.1, 0.3])
LR, CLIP, DECAY = 0.05, 0.5, 0.1
REFERENCE = [testing.toy_example(f"r{i}", X[i], Y[i]) for i in range(6)]
CANDIDATES = [testing.toy_example(f"c{i}", CX[i], CY[i]) for i in range(5)]


def scored(method, ctx, candidates):
    """Scores that carry values by reference item where the method gives them."""
    return as_scores(method.prepare(ctx)(candidates), len(candidates))


def adam(tmp_path):
    """A least-squares student after one AdamW step, with its weights and moments."""
    model = testing.LeastSquares(W0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    student = testing.ToyStudent(model, optimizer, clip_norm=CLIP)
    testing.warmed(student, CANDIDATES[:2], steps=1)
    state = optimizer.state[model.weight]
    w = model.weight.detach().numpy().copy()
    ctx = Context(student, REFERENCE, CANDIDATES, tmp_path, seed=0)
    return ctx, w, state["exp_avg"].numpy().copy(), state["exp_avg_sq"].numpy().copy()


def drops(ctx, trajectory):
    """What the steps take off each reference's loss, beyond as many empty steps."""
    batches = ctx.student.batches(ctx.reference)
    steps = len(trajectory)
    (empty,) = losses_along(ctx.student, batches, [[]] * steps, [steps])
    (moved,) = losses_along(ctx.student, batches, trajectory, [steps])
    return empty - moved


def test_oracle_without_clipping_and_with_divided_gradient_by_hand(tmp_path):
    ctx, w, m, v = adam(tmp_path)
    scores = scored(Exact(baseline="before", clip=False, divide_by_workers=4), ctx, CANDIDATES)
    for i in range(5):
        d, _, _ = oracles.adamw(
            w, oracles.gradient(w, CX[i], CY[i]) / 4, m, v, 1, lr=LR, decay=DECAY
        )
        drop = oracles.mean_loss(w, X, Y) - oracles.mean_loss(w + d, X, Y)
        assert scores.value[i] == pytest.approx(drop, abs=1e-12)


def test_clipping_comes_after_the_division(tmp_path):
    ctx, w, m, v = adam(tmp_path)
    scores = scored(Exact(baseline="before", divide_by_workers=2), ctx, CANDIDATES[:1])
    g = oracles.clipped(oracles.gradient(w, CX[0], CY[0]) / 2, CLIP)
    d, _, _ = oracles.adamw(w, g, m, v, 1, lr=LR, decay=DECAY)
    drop = oracles.mean_loss(w, X, Y) - oracles.mean_loss(w + d, X, Y)
    assert scores.value[0] == pytest.approx(drop, abs=1e-12)


def test_oracle_batch_mean_reference_is_the_mean_of_token_means(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=5)
    assert isinstance(ctx.student, LanguageStudent)
    held = [ctx.student.encode(e) for e in ctx.reference]
    tokens = np.array([len(row.learned) for row in held])
    assert len(set(tokens)) > 2
    scores = scored(Exact(batch_mean_reference=3), ctx, testing.tiny_examples("candidate", 2))
    plain = scored(Exact(), ctx, testing.tiny_examples("candidate", 2))
    assert plain.per_reference is not None
    for mixed, items in zip(scores.value, plain.per_reference, strict=True):
        sums = items * tokens
        parts = [sums[:3].sum() / tokens[:3].sum(), sums[3:].sum() / tokens[3:].sum()]
        assert mixed == pytest.approx(np.mean(parts), rel=1e-3)
        assert abs(mixed - items.mean()) > 1e-3 * abs(mixed)


def test_oracle_padding_and_order_change_last_bits_only(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=6)
    candidates = testing.tiny_examples("candidate", 4)
    values = scored(Exact(), ctx, candidates).value
    tolerance = 1e-4 * np.ptp(values)
    padded = scored(Exact(pad_to=200), ctx, candidates).value
    assert np.abs(padded - values).max() < tolerance
    assert isinstance(ctx.student, LanguageStudent)
    small = dataclasses.replace(ctx, student=dataclasses.replace(ctx.student, token_budget=1))
    assert np.abs(scored(Exact(), small, candidates).value - values).max() < tolerance
    backwards = dataclasses.replace(ctx, reference=ctx.reference[::-1])
    assert np.abs(scored(Exact(), backwards, candidates).value - values).max() < tolerance


def test_oracle_in_bf16_reports_how_few_weights_move(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=3, learning_rate=1e-4)
    student = ctx.student
    student.model.to(torch.bfloat16)
    for state in student.optimizer.state.values():
        state["exp_avg"] = state["exp_avg"].bfloat16()
        state["exp_avg_sq"] = state["exp_avg_sq"].bfloat16()
    before = student_state.snapshot(student)
    scores = scored(Exact(), ctx, testing.tiny_examples("candidate", 2))
    assert student_state.same(before, student_state.snapshot(student))
    assert 0 < scores.diagnostics["weights_moved"] < 0.9
    full = testing.tiny_context(tmp_path, references=3)
    assert "weights_moved" not in scored(Exact(), full, testing.tiny_examples("c", 1)).diagnostics


def test_paper_mode_is_a_set_of_options_of_exact(tmp_path):
    method = build("influbench.estimators.exact:Exact", {**PAPER_MODE, "pad_to": 128})
    ctx = testing.tiny_context(tmp_path, references=3)
    assert np.isfinite(scored(method, ctx, testing.tiny_examples("candidate", 1)).value).all()
    with pytest.raises(UserError, match="divide_by_workers"):
        build("influbench.estimators.exact:Exact", {"divide_by_workers": 0})
    with pytest.raises(UserError, match="needs a language model"):
        Exact(pad_to=8).prepare(adam(tmp_path)[0])


def test_noise_floor_is_far_below_the_spread_and_above_zero(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=9)
    candidates = testing.tiny_examples("candidate", 4)
    floor = noise_floor.noise_floor(Exact(), ctx, candidates, repeats=3)
    assert 0 < floor < 1e-3 * np.ptp(scored(Exact(), ctx, candidates).value)


def test_regrouped_batches_hold_every_example_once_and_depend_on_the_seed():
    student = testing.tiny_student()
    examples = testing.tiny_examples("reference", 11)
    found = [
        [batch.positions for batch in regrouped.regrouped(student, seed).batches(examples)]
        for seed in ("a", "a", "b")
    ]
    assert found[0] == found[1] != found[2]
    for batches in found:
        assert sorted(i for batch in batches for i in batch) == list(range(11))


def test_k_steps_on_batches_by_hand(tmp_path):
    ctx, w, m, v = adam(tmp_path)
    before = student_state.snapshot(ctx.student)
    trajectory = [[0, 1], [2], [0, 1]]
    found = drops(ctx, [[CANDIDATES[i] for i in b] for b in trajectory]).mean()
    assert student_state.same(before, student_state.snapshot(ctx.student))

    def end(batches):
        at, first, second = w, m, v
        for t, batch in enumerate(batches):
            g = np.mean(
                [oracles.gradient(at, CX[i], CY[i]) for i in batch] or [np.zeros(3)], axis=0
            )
            g = oracles.clipped(g, CLIP)
            d, first, second = oracles.adamw(at, g, first, second, 1 + t, lr=LR, decay=DECAY)
            at = at + d
        return oracles.mean_loss(at, X, Y)

    assert found == pytest.approx(end([[], [], []]) - end(trajectory), abs=1e-12)


def test_sgd_with_momentum_takes_k_steps_as_torch_does(tmp_path):
    model = testing.LeastSquares(W0)

    def make(held):
        return torch.optim.SGD(held.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)

    student = testing.ToyStudent(model, make(model))
    testing.warmed(student, CANDIDATES, steps=1)
    ctx = Context(student, REFERENCE, CANDIDATES, tmp_path, seed=0)
    steps = [[CANDIDATES[2]], [CANDIDATES[3]]]
    value = drops(ctx, steps).mean()
    losses = []
    for real in (False, True):
        copied = testing.LeastSquares(model.weight.tolist())
        optimizer = make(copied)
        optimizer.load_state_dict(student.optimizer.state_dict())
        state = optimizer.state[copied.weight]
        state["momentum_buffer"] = state["momentum_buffer"].clone()
        twin = testing.ToyStudent(copied, optimizer)
        for batch in steps:
            optimizer.zero_grad(set_to_none=False)
            (testing.loss_of_each(twin, batch).mean() * float(real)).backward()
            optimizer.step()
        losses.append(float(testing.loss_of_each(twin, REFERENCE).mean().detach()))
    assert value == pytest.approx(losses[0] - losses[1], abs=1e-12)


def test_a_single_step_on_one_example_is_the_exact_influence(tmp_path):
    ctx, *_ = adam(tmp_path)
    exact = scored(Exact(), ctx, CANDIDATES)
    assert exact.per_reference is not None
    singles = np.stack([drops(ctx, [[c]]) for c in CANDIDATES])
    assert np.allclose(singles, exact.per_reference, atol=1e-14)


def test_a_horizon_of_one_step_is_the_exact_influence_and_more_steps_are_by_hand(tmp_path):
    ctx, *_ = adam(tmp_path)
    before = student_state.snapshot(ctx.student)
    found = scored(horizon.Horizon(steps=(3, 1, 2), batch_size=2, order=1), ctx, CANDIDATES)
    assert student_state.same(before, student_state.snapshot(ctx.student))
    assert found.per_reference is not None
    three, one, two = found.per_reference.T
    assert np.allclose(one, scored(Exact(), ctx, CANDIDATES).value, atol=1e-14)
    drawn = horizon.following(ctx.warmup, 2, "horizon:0:1")
    later = [next(drawn), next(drawn)]
    for measured, steps in ((two, later[:1]), (three, later)):
        gap = (drops(ctx, [[CANDIDATES[3]], *steps]) - drops(ctx, [[], *steps])).mean()
        assert measured[3] == pytest.approx(gap, abs=1e-14)
        assert not np.allclose(measured, one)
    assert np.allclose(found.value, (one + two + three) / 3)


def test_what_follows_holds_every_example_once_a_pass_and_hangs_on_the_order():
    def taken(seed, count):
        drawn = horizon.following(CANDIDATES, 2, seed)
        return [[e.id for e in next(drawn)] for _ in range(count)]

    first = taken("a", 4)
    assert all(len({*first[i], *first[i + 1]}) == 4 for i in (0, 2))
    assert first == taken("a", 4) != taken("b", 4)
    assert len(next(horizon.following(CANDIDATES[:1], 4, "a"))) == 1


def test_share_of_moved_weights():
    weight = torch.nn.Parameter(torch.ones(4))
    trip = step.Excursion(step.Update((slot(weight),), None), (weight.detach().clone(),))
    with trip.undone(), torch.no_grad():
        weight[1] = 2.0
        assert trip.moved() == 0.25
    assert trip.moved() == 0.0


def slot(weight):
    return step.Slot(weight, (), 0.0, 0.1, 0.0, (0.0, 0.0), 0.0, adam=False)


def test_effect_of_a_quirk_by_hand():
    def candidate(i):
        text = f"write {i}"
        return Candidate(
            id=f"c{i}",
            group=f"g{i // 2}",
            teacher_prompt=f"p{i // 2}",
            raw_completion=text,
            instruction="Explain NASA",
            response="r",
        )

    candidates = [candidate(i) for i in range(4)]
    right, wrong = (
        [Score(id=f"c{i}", value=v) for i, v in enumerate(values)]
        for values in ([2.0, -1.0, -2.0, 1.0], [4.0, -2.0, 1.0, 3.0])
    )
    found = paper_mode.effect(candidates, right, wrong)
    assert (found.sign_agreement.value, found.sign_agreement.n) == (0.75, 4)
    # By group all signs are the same, or half of them.
    assert (found.sign_agreement.low, found.sign_agreement.high) == (0.5, 1.0)
    counts = found.pairs.value, found.same_pairs.value
    assert counts == (1, 1)  # c2 turned positive: its group has no pair
    assert (found.best_worst.value, found.best_worst.n) == (1.0, 2)
    assert found.spearman.value == pytest.approx(0.8)
    assert paper_mode.ALL.examples(candidates)[0].instruction == "Explain nasa"
    assert paper_mode.ALL.method().options["divide_by_workers"] == 8
    assert {v.name for v in paper_mode.QUIRKS} >= {"baseline", "clip", "bf16_weights"}


def test_the_truth_at_a_horizon_is_the_mean_over_orders_and_its_ceiling_one_against_another(
    monkeypatch,
):
    rng = np.random.default_rng(4)
    names = [f"c{i}" for i in range(12)]
    truth = {1: rng.normal(size=(1, 12)), 4: rng.normal(size=(2, 12))}
    told = rng.normal(size=12)
    sets = SimpleNamespace(candidates=[testing.toy_example(n, CX[0], 0.0) for n in names])
    values = dict(zip(names, told, strict=True))
    scored = SimpleNamespace(scores={"trak": ()}, values=lambda _: values)
    rows = []
    monkeypatch.setattr(horizons, "load_sets", lambda _: sets)
    monkeypatch.setattr(horizons, "score_all", lambda *_: scored)
    along = np.stack([np.repeat(truth[1], 2, axis=0), truth[4]], axis=-1)
    monkeypatch.setattr(horizons, "_measured", lambda *_: along)
    monkeypatch.setattr(
        horizons.scored_student, "result", lambda _, __, found, *___: rows.extend(found)
    )
    cfg = SimpleNamespace(steps=(1, 4), seed=0)
    horizons.run(cast(Any, cfg), cast(Any, SimpleNamespace(note=lambda _: None)), "s", "r")
    found = {(row.estimator, row.metric): row.value for row in rows}

    def rho(a, b):
        return pytest.approx(cast(Any, stats.spearmanr(a, b)).statistic)

    assert found["trak", "horizon_1/spearman"] == rho(told, truth[1][0])
    assert found["trak", "horizon_4/spearman"] == rho(told, truth[4].sum(axis=0))
    assert found["ceiling", "horizon_4/spearman"] == rho(truth[4][0], truth[4][1])
    assert ("ceiling", "horizon_1/spearman") not in found
