"""Other toolkits against our own materialised gradients, on the same tiny model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toolkits import linked, needs, needs_dattri

from influbench import testing
from influbench.derivatives import gradients
from influbench.errors import UserError
from influbench.estimator import as_scores, passes
from influbench.estimators.bergson_dot import BergsonDot
from influbench.estimators.bergson_ekfac_cg import BergsonEkfacCg
from influbench.estimators.bergson_trackstar import BergsonTrackstar
from influbench.estimators.dattri_tracin import DattriTracin
from influbench.estimators.ekfac import Ekfac
from influbench.store import Meter

CANDIDATES = testing.tiny_examples("candidate", 6)


@pytest.fixture(scope="module", autouse=True)
def users_environments(cache):
    linked(Path(cache))


def linear_dot(ctx):
    """⟨∇L_ref, ∇ℓ⟩ over the linear layers below the head; their share of the parameters."""
    model = ctx.student.model
    weights = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    mean = gradients.mean_gradient(ctx.student, weights, ctx.reference)
    dots = [gradients.dot(mean, gradients.gradient(ctx.student, weights, c)) for c in CANDIDATES]
    total = sum(p.numel() for p in model.parameters())
    return np.array(dots), sum(w.numel() for w in weights) / total


METHODS = [
    pytest.param(DattriTracin(), 1.0, marks=needs_dattri, id="dattri_tracin"),
    pytest.param(DattriTracin(batch_tokens=1), 1.0, marks=needs_dattri, id="dattri_one_by_one"),
    pytest.param(Ekfac(strategy="identity"), 1.0, marks=needs("kronfluence"), id="kronfluence"),
    # Damping beyond every eigenvalue: (G + λI)⁻¹ is 1/λ.
    pytest.param(Ekfac(damping=1e6), 1e6, marks=needs("kronfluence"), id="ekfac_damped"),
    pytest.param(BergsonDot(), 1.0, marks=needs("bergson"), id="bergson"),
    pytest.param(
        BergsonEkfacCg(damping=1e8), 1e8, marks=needs("bergson"), id="bergson_ekfac_cg_damped"
    ),
]


@pytest.mark.parametrize(("method", "factor"), METHODS)
def test_toolkits_agree_with_our_own_gradients(method, factor, tmp_path):
    ctx = testing.tiny_context(tmp_path)
    expected, share = linear_dot(ctx)
    got = as_scores(method.prepare(ctx)(CANDIDATES), len(CANDIDATES))
    np.testing.assert_allclose(got.value * factor, expected, rtol=2e-6)
    assert got.diagnostics["parameter_share"] == pytest.approx(share)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Ekfac(strategy="identity"), marks=needs("kronfluence"), id="identity"),
        pytest.param(Ekfac(), marks=needs("kronfluence"), id="ekfac"),
        pytest.param(BergsonDot(), marks=needs("bergson"), id="bergson"),
        pytest.param(BergsonTrackstar(), marks=needs("bergson"), id="trackstar"),
        pytest.param(BergsonEkfacCg(steps=3), marks=needs("bergson"), id="ekfac_cg"),
    ],
)
def test_their_passes_are_those_that_their_facts_name(method, tmp_path):
    ctx = testing.tiny_context(tmp_path)
    meter, models = Meter(), [ctx.student.model]
    with meter.phase("prepare", models=models):
        score = method.prepare(ctx)
    with meter.phase("score", models=models):
        score(CANDIDATES)
    prepared, scored = (row.forward_passes + 2 * row.backward_passes for row in meter.rows())
    sizes = {"W": len(ctx.warmup), "M": len(ctx.reference)}
    told = [passes.spent(text, sizes, dataclasses.asdict(method)) for text in method.facts.passes]
    assert [prepared, scored / len(CANDIDATES)] == [row and row.passes for row in told]


@pytest.mark.parametrize(("method", "_"), [METHODS[0], METHODS[2], METHODS[4]])
def test_they_refuse_a_share_that_they_do_not_cover(method, _, tmp_path):
    strict = type(method)(min_share=0.8)
    with pytest.raises(UserError, match=r"attributes 70\.8% of the trainable parameters"):
        strict.prepare(testing.tiny_context(tmp_path))


@needs("kronfluence")
def test_curvature_changes_the_scores_and_its_seed_is_kept(tmp_path):
    ctx = testing.tiny_context(tmp_path)
    plain, _ = linear_dot(ctx)
    first, second = (as_scores(Ekfac().prepare(ctx)(CANDIDATES), 6).value for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert np.corrcoef(first, plain)[0, 1] < 0.999
    assert (first > 0).all()


def gauss_newton_root(ctx, weights):
    """R with RᵀR the Gauss-Newton matrix of the mean warm-up loss, shape [logit, weight]."""
    model = ctx.student.model
    named = {n: p.detach() for n, p in model.named_parameters() if any(p is w for w in weights)}
    parts = []
    for example in ctx.warmup:
        row = ctx.student.encode(example)
        ids = torch.tensor([row.ids])

        def logits(held, ids=ids, row=row):
            out = torch.func.functional_call(model, held, (ids,)).logits[0]
            return out[torch.tensor(row.learned) - 1]

        root = torch.softmax(logits(named), -1).detach().sqrt()
        jacobians = torch.func.jacrev(logits, chunk_size=64)(named).values()
        jacobian = torch.cat([part.flatten(2) for part in jacobians], 2).detach()
        # diag(p) - p pᵀ = L Lᵀ with L = diag(√p) - p √pᵀ, as √pᵀ√p = 1
        means = root[..., None] * torch.einsum("tv,tvw->tw", root**2, jacobian)[:, None]
        scale = (len(row.learned) * len(ctx.warmup)) ** 0.5
        parts.append(((root[..., None] * jacobian - means) / scale).flatten(0, 1))
    return torch.cat(parts).double().numpy()


@needs("bergson")
def test_cg_solves_the_damped_gauss_newton_system(tmp_path):
    """(RᵀR + λI)⁻¹g = (g - Rᵀ(RRᵀ + λI)⁻¹Rg) / λ, in float64 and with gradients of our own."""
    damping = 1.0
    short = [dataclasses.replace(e, response=e.response[:1]) for e in testing.tiny_examples("w", 2)]
    ctx = dataclasses.replace(testing.tiny_context(tmp_path, attention="eager"), warmup=short)
    named = ctx.student.model.named_parameters()
    weights: list[torch.Tensor] = [p for n, p in named if p.ndim == 2 and "embed" not in n]

    def flat(parts):
        return torch.cat([part.flatten() for part in parts]).double().numpy()

    query = flat(gradients.mean_gradient(ctx.student, weights, ctx.reference))
    own = np.stack([flat(gradients.gradient(ctx.student, weights, c)) for c in CANDIDATES])
    root = gauss_newton_root(ctx, weights)
    inner = np.linalg.solve(root @ root.T + damping * np.eye(len(root)), root @ query)
    expected = own @ (query - root.T @ inner) / damping
    got = as_scores(BergsonEkfacCg(damping=damping, steps=60).prepare(ctx)(CANDIDATES), 6)
    np.testing.assert_allclose(got.value, expected, rtol=1e-4)
    assert got.diagnostics["cg_residual"] < 1e-4
    # The curvature matters: the gradients alone are not the solution.
    assert np.abs(own @ query / damping / expected - 1).max() > 0.1


@needs("bergson")
def test_trackstar_is_a_cosine_that_the_projections_width_moves(tmp_path):
    ctx = testing.tiny_context(tmp_path, references=1)
    copy = dataclasses.replace(ctx.reference[0], id="copy")
    narrow, wide = (
        as_scores(BergsonTrackstar(width=n).prepare(ctx)([copy, *CANDIDATES]), 7).value
        for n in (4, 16)
    )
    for values in (narrow, wide):
        assert values[0] == pytest.approx(1.0, abs=1e-4)
        assert (np.abs(values[1:]) < 1).all()
    assert not np.allclose(narrow, wide, atol=1e-3)


@needs_dattri
def test_hooks_in_our_process_are_all_removed():
    testing.check_estimator(DattriTracin())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Ekfac(), marks=needs("kronfluence"), id="ekfac"),
        pytest.param(Ekfac(strategy="identity"), marks=needs("kronfluence"), id="identity"),
        pytest.param(BergsonDot(), marks=needs("bergson"), id="bergson_dot"),
        pytest.param(BergsonTrackstar(), marks=needs("bergson"), id="bergson_trackstar"),
        pytest.param(BergsonEkfacCg(), marks=needs("bergson"), id="bergson_ekfac_cg"),
    ],
)
def test_workers_keep_the_contract(method):
    testing.check_estimator(method)
