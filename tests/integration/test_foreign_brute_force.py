"""Other toolkits against brute force in fp64, written from the formulas in their docstrings.

On a model with biases, with rows of several turns, a system turn, a one-token answer, an answer cut
at ``max_length``, and more rows than a batch holds. Nothing here calls our own gradients.
"""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toolkits import linked, needs, needs_dattri
from transformers import Qwen2Config, Qwen2ForCausalLM

from influbench import testing
from influbench.data.records import Example
from influbench.estimator import as_scores
from influbench.estimators.bergson_dot import BergsonDot
from influbench.estimators.bergson_trackstar import BergsonTrackstar
from influbench.estimators.dattri_tracin import DattriTracin
from influbench.estimators.ekfac import Ekfac

HELLO = (("system", "Be brief"), ("user", "Hi"), ("assistant", "Hello there."))
CANDIDATES = [
    *testing.tiny_examples("candidate", 5),
    Example(id="turns", instruction="Tell.", response="No.", earlier=HELLO),
    Example(id="one", instruction="Tell me all about it.", response="x"),
    Example(id="cut", instruction="Tell me all.", response="word " * 30),
]


@pytest.fixture(scope="module", autouse=True)
def users_environments(cache):
    linked(Path(cache))


@pytest.fixture
def ctx(tmp_path):
    """A tiny Qwen 2, whose attention has biases, that cuts at 100 tokens."""
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config).eval()
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, 0, weight.shape[1] ** -0.5)
        else:
            torch.nn.init.normal_(weight, float(weight.detach().mean() == 1), 0.2)
    tiny = testing.tiny_context(tmp_path, references=5)
    student = dataclasses.replace(
        tiny.language_student(),
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), weight_decay=0.0),
        max_length=100,
        cut=True,
        token_budget=300,
        packed=False,
    )
    return dataclasses.replace(tiny, student=student, warmup=tiny.warmup[:6])


def rows_of(ctx, examples):
    return [ctx.student.encode(example) for example in examples]


def linear(model):
    head = model.get_output_embeddings()
    found = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return [layer for layer in found if layer is not head]


def predicted(model, row):
    """Log-probabilities where response tokens are predicted, and these tokens."""
    logits = model(torch.tensor([row.ids])).logits[0][torch.tensor(row.learned) - 1]
    return logits.log_softmax(-1), torch.tensor([row.ids[t] for t in row.learned])


def gradient(parameter):
    """A copy, with a bias as a column."""
    assert parameter.grad is not None
    return parameter.grad.clone().view(len(parameter), -1)


def gradients_of(model, row):
    """∇ℓ of the mean over response tokens, by layer: [output, input], a bias as one more input."""
    model.zero_grad()
    log_p, targets = predicted(model, row)
    (-log_p[torch.arange(len(targets)), targets].mean()).backward()
    parts = [layer.parameters() for layer in linear(model)]  # the weight, then the bias
    return [torch.cat([gradient(p) for p in part], 1) for part in parts]


def products(ctx, model, between, *, biases=True):
    """⟨between(mean reference gradient), ∇ℓ⟩ for each candidate, shape [candidate]."""
    each = [gradients_of(model, row) for row in rows_of(ctx, ctx.reference)]
    query = between([torch.stack(parts).mean(0) for parts in zip(*each, strict=True)])
    widths = [None if biases else layer.in_features for layer in linear(model)]
    own = [gradients_of(model, row) for row in rows_of(ctx, CANDIDATES)]
    return np.array(
        [
            sum(float((q * g)[:, :w].sum()) for q, g, w in zip(query, parts, widths, strict=True))
            for parts in own
        ]
    )


def close(got, expected):
    """As a share of the spread."""
    assert np.abs(got - expected).max() < 1e-5 * np.ptp(expected)


def share(ctx, *, biases):
    parts = [(m.weight, m.bias if biases else None) for m in linear(ctx.student.model)]
    held = sum(p.numel() for pair in parts for p in pair if p is not None)
    return held / sum(p.numel() for p in ctx.student.model.parameters())


@pytest.mark.parametrize(
    ("method", "biases"),
    [
        pytest.param(DattriTracin(), True, marks=needs_dattri, id="dattri"),
        pytest.param(
            Ekfac(strategy="identity"), True, marks=needs("kronfluence"), id="kronfluence"
        ),
        pytest.param(BergsonDot(batch_tokens=200), False, marks=needs("bergson"), id="bergson"),
    ],
)
def test_dot_products_and_the_share_are_of_the_parameters_that_they_take(method, biases, ctx):
    got = as_scores(method.prepare(ctx)(CANDIDATES), len(CANDIDATES))
    model = copy.deepcopy(ctx.student.model).double()
    close(got.value, products(ctx, model, lambda query: query, biases=biases))
    assert got.diagnostics["parameter_share"] == pytest.approx(share(ctx, biases=biases))


def captured(model, row, generator):
    """Inputs (with a 1 for the bias) and output gradients by layer, labels drawn from the model."""
    seen, hooks = {}, []
    for number, layer in enumerate(linear(model)):

        def keep(layer, inputs, output, number=number):
            a = inputs[0].detach()[0]
            ones = a.new_ones(len(a), 0 if layer.bias is None else 1)
            seen[number] = [torch.cat([a, ones], 1)]
            output.register_hook(lambda gradient: seen[number].append(gradient.detach()[0]))

        hooks.append(layer.register_forward_hook(keep))
    log_p, _ = predicted(model, row)
    drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)[:, 0]
    (-log_p[torch.arange(len(drawn)), drawn].sum() / len(drawn) ** 0.5).backward()
    for hook in hooks:
        hook.remove()
    return [seen[number] for number in sorted(seen)]


@needs("kronfluence")
@pytest.mark.parametrize("damping", [None, 0.01])
def test_ekfac_is_its_formula(damping, ctx):
    model = copy.deepcopy(ctx.student.model).double()
    generator = torch.Generator().manual_seed(ctx.seed)
    warmup = rows_of(ctx, ctx.warmup)
    first = [captured(model, row, generator) for row in warmup]
    bases = [
        tuple(torch.linalg.eigh(sum(p[side].T @ p[side] for p in parts))[1] for side in (0, 1))
        for parts in zip(*first, strict=True)
    ]
    second = [captured(model, row, generator) for row in warmup]
    means = [
        torch.stack([(u_s.T @ g.T @ a @ u_a) ** 2 for a, g in parts]).mean(0)
        for (u_a, u_s), parts in zip(bases, zip(*second, strict=True), strict=True)
    ]

    def inverse(query):
        out = []
        for q, (u_a, u_s), values in zip(query, bases, means, strict=True):
            added = 0.1 * values.mean() if damping is None else damping
            out.append(u_s @ ((u_s.T @ q @ u_a) / (values + added)) @ u_a.T)
        return out

    got = as_scores(Ekfac(damping=damping).prepare(ctx)(CANDIDATES), len(CANDIDATES))
    close(got.value, products(ctx, model, inverse))


def whitened_cosines(ctx, model, components):
    """TrackStar's scores without projection, shape [candidate], and λ."""

    def features(examples):
        each = [gradients_of(model, row) for row in rows_of(ctx, examples)]
        weights = [layer.weight.shape for layer in linear(model)]
        return [
            torch.stack([parts[i][:, :inputs].flatten() for parts in each])
            for i, (_, inputs) in enumerate(weights)
        ]

    asked, fitted, own = (features(e) for e in (ctx.reference, ctx.warmup, CANDIDATES))
    # Of rank `rows`, so that the singular values of the features are all eigenvalues but zeros.
    curves = [
        torch.cat([torch.linalg.svdvals(f) ** 2 / len(f) for f in part]).sort(descending=True)[0]
        for part in (asked, fitted)
    ]
    at, own_at = (float(curve[components - 1]) for curve in curves)
    mixing = own_at / (at + own_at)

    def whitened(rows):
        parts = []
        for a, f, z in zip(asked, fitted, rows, strict=True):
            moment = mixing * a.T @ a / len(a) + (1 - mixing) * f.T @ f / len(f)
            values, vectors = torch.linalg.eigh(moment)
            damped = values.clamp(min=0) + 0.1 * values.clamp(min=0).mean()
            parts.append(z @ vectors * damped**-0.5 @ vectors.T)
        return torch.nn.functional.normalize(torch.cat(parts, 1))

    return (whitened(own) @ whitened(asked).mean(0)).numpy(), mixing


@needs("bergson")
@pytest.mark.parametrize(("components", "at"), [(20, 20), (1000, 70)])
def test_trackstar_is_its_formula_also_where_references_span_fewer_directions(components, at, ctx):
    """14 layers and 5 references span 70 directions, 6 warm-up rows 84."""
    method = BergsonTrackstar(width=0, components=components, batch_tokens=200)
    got = as_scores(method.prepare(ctx)(CANDIDATES), len(CANDIDATES))
    expected, mixing = whitened_cosines(ctx, copy.deepcopy(ctx.student.model).double(), at)
    assert got.diagnostics["components"] == at
    assert got.diagnostics["mixing"] == pytest.approx(mixing, rel=1e-3)
    assert 0.1 < mixing < 0.9
    close(got.value, expected)
