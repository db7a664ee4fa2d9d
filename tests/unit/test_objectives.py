"""What the references are for: exact changes against brute force, and gradients against those."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from influbench import scoring, testing
from influbench.data.examples import as_examples
from influbench.derivatives import gradients, objective, step
from influbench.errors import UserError
from influbench.estimator import as_scores
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.exact import Exact
from influbench.estimators.first_order import FirstOrder
from influbench.estimators.gradient_dot import GradientDot
from influbench.estimators.less import Less
from influbench.estimators.mates import Mates
from influbench.store import Store
from influbench.store.session import Session

CANDIDATES = testing.tiny_examples("candidate", 3)
OBJECTIVES = ("nll", "dpo", "reward", "weighted")
BETA = 0.3


@pytest.fixture(params=OBJECTIVES)
def tiny(request, tmp_path):
    return context(tmp_path, request.param)


def context(folder, kind):
    ctx = testing.tiny_context(folder, references=3, learning_rate=1e-3)
    aimed = [
        dataclasses.replace(r, rejected=w.response, weight=float(i), reward=1.5 - i)
        for i, (r, w) in enumerate(
            zip(ctx.reference, testing.tiny_examples("worse", 7)[4:], strict=True)
        )
    ]
    return dataclasses.replace(ctx, reference=aimed, objective=kind, dpo_beta=BETA)


def scores(method, ctx):
    return as_scores(method.prepare(ctx)(CANDIDATES), len(CANDIDATES)).value


def log_likelihood(student, model, example):
    """Sum over response tokens, and how many there are, by the plain model."""
    row = student.encode(example)
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return sum(float(logs[t - 1, row.ids[t]]) for t in row.learned), len(row.learned)


def plainly(ctx, model, start) -> float:
    """The objective of a model by its definition."""
    student = ctx.student
    if ctx.objective == "dpo":
        each = []
        for r in ctx.reference:
            worse = dataclasses.replace(r, response=r.rejected)
            margin = [
                log_likelihood(student, m, r)[0] - log_likelihood(student, m, worse)[0]
                for m in (model, start)
            ]
            each.append(np.log1p(np.exp(-BETA * (margin[0] - margin[1]))))
        return float(np.mean(each))
    said = [log_likelihood(student, model, r) for r in ctx.reference]
    losses = np.array([-total / tokens for total, tokens in said])
    factor = {
        "nll": np.ones(3) / 3,
        "reward": np.array([r.reward for r in ctx.reference]) / 3,
        "weighted": np.array([r.weight for r in ctx.reference]) / 3.0,  # their sum is 3
    }[ctx.objective]
    return float(losses @ factor)


def stepped(ctx, example):
    """A copy of the student's network after its optimizer's own step on one example, or on none."""
    model = copy.deepcopy(ctx.student.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    optimizer.load_state_dict(copy.deepcopy(ctx.student.optimizer.state_dict()))
    copied = dataclasses.replace(ctx.student, model=model, optimizer=optimizer)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    if example is not None:
        testing.loss_of_each(copied, [example]).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), ctx.student.clip_norm)
    optimizer.step()
    return model


def test_exact_is_the_change_of_that_objective_by_brute_force(tiny):
    start = tiny.student.model
    null = plainly(tiny, stepped(tiny, None), start)
    expected = [null - plainly(tiny, stepped(tiny, c), start) for c in CANDIDATES]
    assert np.abs(expected).min() > 1e-5
    np.testing.assert_allclose(scores(Exact(), tiny), expected, rtol=1e-3, atol=1e-6)


def test_gradients_are_those_of_the_objective(tiny):
    weights = step.next_update(tiny.student).weights
    target = objective.target(tiny)
    found = target.gradient(tiny.student, weights)
    along = gradients.gradient(tiny.student, weights, CANDIDATES[0])
    start, sides = copy.deepcopy(tiny.student.model), []
    for sign in (1.0, -1.0):
        moved = copy.deepcopy(start)
        with torch.no_grad():
            for w, d in zip(moved.parameters(), along, strict=True):
                w.add_(d, alpha=sign * 1e-3)
        sides.append(plainly(tiny, moved, start))
    slope = (sides[0] - sides[1]) / 2e-3
    assert gradients.dot(found, along) == pytest.approx(slope, rel=2e-2, abs=1e-5)
    each = [one() for one in target.each_gradient(tiny.student, weights)]
    mean = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
    for a, b in zip(mean, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_first_order_is_near_exact_and_the_dots_are_with_the_objectives_gradient(tiny):
    near, exact = scores(FirstOrder(), tiny), scores(Exact(), tiny)
    np.testing.assert_allclose(near, exact, rtol=0.1, atol=5e-3)
    weights = step.next_update(tiny.student).weights
    target = objective.target(tiny).gradient(tiny.student, weights)
    own = [gradients.gradient(tiny.student, weights, c) for c in CANDIDATES]
    dots = [gradients.dot(target, g) for g in own]
    np.testing.assert_allclose(scores(GradientDot(), tiny), dots, rtol=1e-5)
    plain = scores(AdamJvp(preconditioner="none"), tiny)
    np.testing.assert_allclose(plain, dots, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["dpo", "reward", "weighted"])
def test_every_method_that_follows_gives_other_scores_than_for_likelihood(kind, tmp_path):
    ctx = context(tmp_path, kind)
    plain = dataclasses.replace(ctx, objective="nll")
    for method in (Exact(), FirstOrder(), AdamJvp(), GradientDot(), Less(), Mates(budget=4)):
        assert method.facts.objectives
        assert not np.allclose(scores(method, ctx), scores(method, plain), rtol=1e-3)


def test_less_weighs_each_references_cosine(tmp_path):
    ctx = context(tmp_path, "weighted")
    each = [
        as_scores(
            Less().prepare(dataclasses.replace(ctx, objective="nll"))(CANDIDATES), 3
        ).per_reference
    ][0]
    assert each is not None
    np.testing.assert_allclose(scores(Less(), ctx), each @ [0, 1, 2] / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "field"), [("dpo", "rejected"), ("reward", "reward"), ("weighted", "weight")]
)
def test_a_reference_without_what_the_objective_is_made_of_is_named(kind, field, tmp_path):
    ctx = testing.tiny_context(tmp_path)
    with pytest.raises(UserError, match=rf"'{field}' in every reference, and 'reference-0'"):
        Exact().prepare(dataclasses.replace(ctx, objective=kind))


def test_weights_that_are_all_zero_and_other_means_are_refused(tmp_path):
    ctx = context(tmp_path, "weighted")
    nothing = [dataclasses.replace(r, weight=0.0) for r in ctx.reference]
    with pytest.raises(UserError, match="expected weights above 0"):
        Exact().prepare(dataclasses.replace(ctx, reference=nothing))
    with pytest.raises(UserError, match=r"expected scoring\.objective = nll with it"):
        Exact(batch_mean_reference=2).prepare(ctx)


def test_files_bring_what_references_are_for_and_candidates_do_not_read_it():
    rows = [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away", "weight": 2, "reward": -0.5},
        {"instruction": "Hi", "response": "Hello"},
    ]
    first, second = as_examples(rows, reference=True)
    assert (first.response, first.rejected, first.weight, first.reward) == (
        "Hello", "Go away", 2.0, -0.5,
    )  # fmt: skip
    assert (second.rejected, second.weight, second.reward) == ("", None, None)
    pair = {"instruction": "Hi", "response": "Hello", "reward": "high", "weight": 3}
    assert as_examples([pair])[0].weight is None
    with pytest.raises(UserError, match="a number in 'reward', got str 'high'"):
        as_examples([pair], reference=True)
    with pytest.raises(UserError, match="a number from 0 in 'weight'"):
        as_examples([pair | {"reward": 1, "weight": -1}], reference=True)


def test_one_setting_reaches_the_scores_and_who_does_not_follow_it_says_so(tiny_ref, tmp_path):
    lines = [
        {"instruction": r.instruction, "response": r.response, "weight": i}
        for i, r in enumerate(testing.tiny_examples("reference", 3))
    ]
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, lines)))
    reference = as_examples(tmp_path / "held_out.jsonl", reference=True)
    warmup = testing.tiny_examples("warmup", 4)
    session = Session(Store(tmp_path / "store"))

    def scored(name, kind):
        method = scoring.MethodConfig(estimator=name, objective=kind)
        return scoring.score_candidates(session, method, CANDIDATES, reference, warmup, tiny_ref)

    def values(found):
        return [s.value for s in found.scores]

    assert values(scored("gradient_dot", "weighted")) != values(scored("gradient_dot", "nll"))
    assert not session.notes
    aside = scored("repsim", "weighted")
    assert aside.method.objective == "nll"
    assert values(aside) == values(scored("repsim", "nll"))
    assert session.notes == [
        "repsim: does not follow scoring.objective = weighted; its scores are for the likelihood "
        "of the references"
    ]
