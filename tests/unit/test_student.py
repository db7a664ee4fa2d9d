"""The per-example loss: equal to the model's own, whatever batch, padding and chunks."""

import pytest
import torch

from influbench import losses, testing
from influbench.errors import UserError
from influbench.losses import Encoded
from influbench.meter import Meter
from influbench.records import Example


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
    ours = student.loss(examples)
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
    alone = torch.cat([student.loss([e]) for e in examples])
    together = student.loss(examples)
    backwards = student.loss(examples[::-1]).flip(0)
    assert torch.allclose(alone, together, rtol=1e-6)
    assert torch.allclose(alone, backwards, rtol=1e-6)


def test_chunked_logits_change_neither_loss_nor_gradient(student, monkeypatch):
    examples = testing.tiny_examples("chunk", 4)
    weights = list(student.model.parameters())
    whole = student.loss(examples)
    gradient = torch.autograd.grad(whole.sum(), weights)
    monkeypatch.setattr(losses, "CHUNK", 7)
    parts = student.loss(examples)
    assert torch.allclose(whole, parts, rtol=1e-6)
    for a, b in zip(gradient, torch.autograd.grad(parts.sum(), weights), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_batches_cover_every_example_once_within_the_budget(student):
    examples = testing.tiny_examples("cover", 17)
    batches = student.batches(examples)
    assert sorted(i for batch in batches for i in batch) == list(range(17))
    for batch in batches:
        longest = max(len(student.encode(examples[i]).ids) for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= student.token_budget


def test_an_example_longer_than_the_context_is_refused_by_name(student):
    long = Example(id="too-long", instruction="Say it.", response="word " * 2000)
    with pytest.raises(UserError, match=r"'too-long' has .* tokens, the student's context holds"):
        student.encode(long)


def test_weights_of_the_head_are_trained_through_the_tied_embedding(student):
    example = testing.tiny_examples("tied", 1)
    names = [name for name, _ in student.model.named_parameters()]
    gradient = torch.autograd.grad(student.loss(example).sum(), list(student.model.parameters()))
    touched = dict(zip(names, gradient, strict=True))["model.embed_tokens.weight"]
    assert (
        int((touched.abs().sum(dim=1) > 0).sum()) > 200
    )  # the head moves rows of unseen tokens too


def test_rows_share_the_pass_over_what_all_begin_with(student, monkeypatch):
    """A chat template's system turn is read once a batch: fewer tokens, the same losses."""
    shared = "Answer the question below in one short sentence, please. "
    examples = [
        Example(id=f"e{i}", instruction=shared + "?" * i, response="x" * (1 + i)) for i in range(6)
    ]
    rows = [student.encode(e) for e in examples]
    meter = Meter()
    with torch.no_grad():
        with meter.phase("shared", models=[student.model]):
            together = student.loss_encoded(rows)
        monkeypatch.setattr("influbench.student.WORTH_SHARING", 10**9)
        with meter.phase("apart", models=[student.model]):
            apart = student.loss_encoded(rows)
    assert torch.allclose(together, apart, rtol=1e-6)
    one, two = meter.rows()
    assert one.forward_passes == two.forward_passes == len(rows)
    length = losses.common_prefix(rows)
    assert length >= len(shared)
    width = max(len(row.ids) for row in rows)
    assert (one.tokens, two.tokens) == (length + len(rows) * (width - length), len(rows) * width)


def test_the_common_prefix_leaves_every_position_that_predicts_a_response():
    rows = [Encoded((1, 2, 3, 4, 5), 4), Encoded((1, 2, 3, 9), 3)]
    assert losses.common_prefix(rows) == 2
    assert losses.common_prefix([Encoded((1, 2), 1), Encoded((1, 2), 1)]) == 0
