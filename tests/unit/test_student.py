"""The per-example loss: equal to the model's own, whatever batch, padding and chunks."""

import dataclasses

import pytest
import torch
from token_rows import batch_of
from transformers import AutoConfig, AutoModelForCausalLM

from influbench import testing
from influbench.data.records import Example
from influbench.derivatives import gradients
from influbench.derivatives.directional import by_forward_mode
from influbench.errors import UserError
from influbench.estimators.exact import Exact
from influbench.store import Meter
from influbench.student import LanguageStudent, losses, packing
from influbench.student.losses import Encoded


@pytest.fixture(scope="module")
def student():
    return testing.tiny_student()


def by_hand(student, example):
    """Mean NLL of the response tokens through the model's own forward, one example, no padding."""
    row = student.encode(example)
    ids = torch.tensor([row.ids])
    labels = ids.clone()
    labels[0, : row.response_start] = -100
    return student.model(input_ids=ids, labels=labels).loss.item()


def test_loss_is_the_models_own_mean_over_response_tokens(student):
    examples = testing.tiny_examples("loss", 5)
    ours = testing.loss_of_each(student, examples)
    assert ours.shape == (5,)
    assert ours.dtype == torch.float64
    assert ours.tolist() == pytest.approx([by_hand(student, e) for e in examples], rel=1e-5)


def test_response_tokens_end_with_the_end_of_turn(student):
    example = testing.tiny_examples("loss", 1)[0]
    row = student.encode(example)
    tokenizer = student.tokenizer
    assert tokenizer.decode(row.ids[row.response_start :]) == example.response + tokenizer.eos_token
    assert row.ids[-1] == tokenizer.eos_token_id
    prompt = tokenizer.decode(row.ids[: row.response_start])
    assert example.instruction in prompt
    assert example.response not in prompt


def test_loss_does_not_depend_on_the_batch_or_its_padding(student):
    examples = testing.tiny_examples("batch", 6)
    alone = torch.cat([testing.loss_of_each(student, [e]) for e in examples])
    together = testing.loss_of_each(student, examples)
    backwards = testing.loss_of_each(student, examples[::-1]).flip(0)
    assert torch.allclose(alone, together, rtol=1e-6)
    assert torch.allclose(alone, backwards, rtol=1e-6)


def test_chunked_logits_change_neither_loss_nor_gradient(student, monkeypatch):
    examples = testing.tiny_examples("chunk", 4)
    weights = list(student.model.parameters())
    whole = testing.loss_of_each(student, examples)
    gradient = torch.autograd.grad(whole.sum(), weights)
    monkeypatch.setattr(losses, "CHUNK", 7)
    monkeypatch.setattr(losses, "FORWARD_CHUNK", 5)
    parts = testing.loss_of_each(student, examples)
    assert torch.allclose(whole, parts, rtol=1e-6)
    with torch.no_grad():
        assert torch.allclose(whole, testing.loss_of_each(student, examples), rtol=1e-6)
    for a, b in zip(gradient, torch.autograd.grad(parts.sum(), weights), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_batches_cover_every_example_once_within_the_budget(student):
    examples = testing.tiny_examples("cover", 17)
    batches = student.batches(examples)
    assert sorted(i for batch in batches for i in batch.positions) == list(range(17))
    for batch in batches:
        assert batch.examples == tuple(examples[i] for i in batch.positions)
        assert batch.rows == tuple(student.encode(e) for e in batch.examples)
        rows, longest = batch.tokens.shape
        assert rows == 1 or rows * longest <= student.token_budget
    assert len(student.batches(examples, at_most=1)) == 17


def test_references_are_tokenised_once_and_candidates_once_each(monkeypatch, tmp_path):
    ctx = testing.tiny_context(tmp_path)
    encode, seen = LanguageStudent.encode, []

    def counted(self, example):
        seen.append(example.id)
        return encode(self, example)

    monkeypatch.setattr(LanguageStudent, "encode", counted)
    scorer = Exact().prepare(ctx)
    assert seen == [e.id for e in ctx.reference]
    seen.clear()
    candidates = testing.tiny_examples("candidate", 3)
    scorer(candidates)
    assert seen == [c.id for c in candidates]


def test_rows_of_a_batch_keep_their_places_in_another_order(student):
    examples = testing.tiny_examples("order", 5)
    (batch,) = student.batches(examples)
    order = [3, 0, 4]
    taken = batch.take(order)
    assert taken.positions == tuple(batch.positions[i] for i in order)
    assert torch.allclose(student.loss(taken), student.loss(batch)[order], rtol=1e-6)


def test_an_example_longer_than_the_context_is_refused_by_name(student):
    long = Example(id="too-long", instruction="Say it.", response="word " * 2000)
    with pytest.raises(UserError, match=r"'too-long' has .* tokens, the student's context holds"):
        student.encode(long)


def test_weights_of_the_head_are_trained_through_the_tied_embedding(student):
    example = testing.tiny_examples("tied", 1)
    names = [name for name, _ in student.model.named_parameters()]
    gradient = torch.autograd.grad(
        testing.loss_of_each(student, example).sum(), list(student.model.parameters())
    )
    touched = dict(zip(names, gradient, strict=True))["model.embed_tokens.weight"]
    assert (
        int((touched.abs().sum(dim=1) > 0).sum()) > 200
    )  # the head moves rows of unseen tokens too


def test_packing_changes_no_loss_pads_nothing_and_reads_a_prefix_once():
    student = testing.tiny_student()
    assert student.packed
    plain = dataclasses.replace(student, packed=False)
    shared = "Answer the question below in one short sentence, please. "
    examples = [
        Example(id=f"e{i}", instruction=shared + "?" * i, response="x" * (1 + 3 * i))
        for i in range(6)
    ]
    rows = [student.encode(e) for e in examples]
    meter = Meter()
    with torch.no_grad():
        with meter.phase("packed", models=[student.model]):
            packed = student.loss(batch_of(student, rows))
        with meter.phase("padded", models=[student.model]):
            padded = plain.loss(batch_of(plain, rows))
        alone = [student.loss(batch_of(student, [row])) for row in rows]
    assert torch.allclose(packed, padded, rtol=1e-6)
    assert torch.allclose(packed, torch.cat(alone), rtol=1e-6)
    assert student.model.config._attn_implementation == "sdpa"
    one, two = meter.rows()
    assert one.forward_passes == two.forward_passes == len(rows)
    prefix, lengths = losses.common_prefix(rows), [len(row.ids) for row in rows]
    assert prefix >= len(shared)
    assert one.tokens == prefix + sum(length - prefix for length in lengths)
    assert two.tokens == len(rows) * max(lengths)


def test_packing_takes_rows_without_a_common_prefix(student):
    rows = [
        Encoded((5, 6, 7, 8), ((1, 4),)),
        Encoded((9, 6), ((1, 2),)),
        Encoded((5, 6, 3), ((2, 3),)),
    ]
    with torch.no_grad():
        together = student.loss(batch_of(student, rows))
        apart = torch.cat([student.loss(batch_of(student, [row])) for row in rows])
    assert losses.common_prefix(rows) == 0
    assert torch.allclose(together, apart, rtol=1e-6)


def test_forward_mode_goes_through_packing(student):
    """A tangent through the packing is the padded rows' own."""
    examples = testing.tiny_examples("jvp", 6)
    weights = list(student.model.parameters())
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(w.shape, generator=generator) for w in weights]
    plain = dataclasses.replace(student, packed=False)
    packed, padded = (by_forward_mode(s, weights, along)(examples) for s in (student, plain))
    assert packed == pytest.approx(padded, rel=1e-4)


def test_gradients_of_a_whole_set_are_the_same_without_padding(student):
    plain = dataclasses.replace(student, packed=False)
    examples = testing.tiny_examples("packed", 6)
    weights = list(student.model.parameters())
    found, meter = [], Meter()
    for name, held in (("packed", student), ("padded", plain)):
        with meter.phase(name, models=[student.model]):
            found.append(gradients.mean_gradient(held, weights, examples))
    packed, padded = found
    difference = gradients.norm([p - q for p, q in zip(packed, padded, strict=True)])
    assert difference < 1e-5 * gradients.norm(padded)
    rows = meter.rows()
    assert [(row.forward_passes, row.backward_passes) for row in rows] == [(6, 6), (6, 6)]
    shared, whole = (row.tokens for row in rows)
    assert shared < sum(len(student.encode(e).ids) for e in examples) <= whole
    alone = [gradients.mean_gradient(held, weights, examples[:1]) for held in (student, plain)]
    assert all(torch.equal(p, q) for p, q in zip(*alone, strict=True))


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    ("kind", "attention", "works"),
    [
        ("llama", "sdpa", True),
        ("qwen3", "sdpa", True),
        ("gpt2", "sdpa", True),
        ("llama", "eager", False),
        ("mistral", "sdpa", False),  # a sliding window
        ("gemma3_text", "sdpa", False),  # windows in some layers
        ("gemma2", "eager", False),  # a soft cap
        ("mamba", "eager", False),  # no attention at all
    ],
)
def test_packing_is_for_models_whose_attention_is_plain(kind, attention, works):
    config = AutoConfig.for_model(kind, **SMALL)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    assert packing.works(model) is works


def test_no_packing_of_a_model_that_asks_its_attention_for_more(monkeypatch):
    """A soft cap that our attention ignored would be wrong by too little for the trial to see."""
    model = testing.tiny_student().model
    layer = model.get_decoder().get_submodule("layers.0.self_attn")
    plain = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *args, **kw: plain(*args, softcap=50.0, **kw))
    assert packing.works(model) is False


def test_the_common_prefix_leaves_every_position_that_predicts_a_response():
    rows = [Encoded((1, 2, 3, 4, 5), ((4, 5),)), Encoded((1, 2, 3, 9), ((3, 4),))]
    assert losses.common_prefix(rows) == 2
    assert losses.common_prefix([Encoded((1, 2), ((1, 2),))] * 2) == 0
