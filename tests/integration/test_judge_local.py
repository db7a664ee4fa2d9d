"""A local model as judge: its probabilities are the model's own, whatever the batch."""

import pytest
import torch

from influbench import models
from influbench.errors import UserError
from influbench.judging import build
from influbench.judging.archive import Archive, request_key
from influbench.judging.local import LocalBackend
from influbench.judging.protocol import JudgeConfig, Request

CHOICES = ("m", "M")
GRADES = tuple(str(grade) for grade in range(1, 11))
TEXTS = ["short", "a somewhat longer question with more words in it", "mid size", "x" * 150]


def ask(text: str, choices: tuple[str, ...] = CHOICES, **more) -> Request:
    return Request(id=text[:8], messages=(("user", text),), choices=choices, **more)


def local(**more) -> JudgeConfig:
    return JudgeConfig(kind="local", model="tiny", device="cpu", **more)


def continuation(text: str, choice: str) -> float:
    """Probability that the model goes on with exactly these characters."""
    model, tokenizer = models.load(models.resolve("tiny"), device="cpu")
    prompt = tokenizer(
        models.chat_prompt(tokenizer, (("user", text),)), add_special_tokens=False
    ).input_ids
    tokens = tokenizer(choice, add_special_tokens=False).input_ids
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens])).logits[0].double().log_softmax(-1)
    rows = torch.arange(len(tokens)) + len(prompt) - 1
    return float(logits[rows, torch.tensor(tokens)].sum().exp())


def test_probabilities_are_the_models_and_do_not_depend_on_the_batch():
    whole = build(local()).ask([ask(text) for text in TEXTS])
    for text, reply in zip(TEXTS, whole, strict=True):
        raw = [continuation(text, choice) for choice in CHOICES]
        assert reply.probabilities == pytest.approx([p / sum(raw) for p in raw], rel=1e-5)
        assert reply.text == CHOICES[raw.index(max(raw))]
    alone = build(local(batch_tokens=1))
    assert [r.probabilities for r in alone.ask([ask(t) for t in TEXTS[::-1]])] == [
        pytest.approx(r.probabilities, rel=1e-5) for r in whole[::-1]
    ]


def test_a_grade_of_two_tokens_and_the_one_that_begins_it():
    reply = build(local()).ask([ask("grade this", GRADES)])[0]
    assert reply.probabilities is not None
    raw = {grade: continuation("grade this", grade) for grade in GRADES}
    raw["1"] -= raw["10"]
    total = sum(raw.values())
    assert reply.probabilities == pytest.approx([raw[g] / total for g in GRADES], rel=1e-5)
    assert sum(reply.probabilities) == pytest.approx(1.0)


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_a_prompt_is_read_once_however_many_beginnings_choices_share(batch_tokens, monkeypatch):
    judge = LocalBackend(local())
    read: list[tuple[int, ...]] = []
    monkeypatch.setattr(LocalBackend, "_batches", lambda self, prompts: [prompts])
    judge.models[0].register_forward_pre_hook(
        lambda _, args, more: read.append(tuple(more["input_ids"].shape)), with_kwargs=True
    )
    found: dict[str, tuple[float, ...]] = {}

    def keep(judgements):
        found.update({j.key: j.probabilities for j in judgements})

    choices = ("1", "10", "100", "2")
    asked = [ask(text, choices) for text in TEXTS[: 3 if batch_tokens > 1 else 1]]
    judge.answer(asked, keep)
    assert [shape[1] for shape in read][1:] == [1, 2]  # after "1" and after "10"
    for request in asked:
        raw = {c: continuation(request.messages[0][1], c) for c in choices}
        raw["1"] -= raw["10"]
        raw["10"] -= raw["100"]
        expected = [raw[c] / sum(raw.values()) for c in choices]
        assert found[request_key(judge.name, request)] == pytest.approx(expected, rel=1e-4)


def test_text_where_no_choices_are_given():
    judge = build(local(max_tokens=5))
    replies = judge.ask([ask(t, ()) for t in TEXTS[:3]])
    assert all(reply.probabilities is None for reply in replies)
    assert all(0 < reply.completion_tokens <= 5 for reply in replies)
    with pytest.raises(UserError, match="greedily"):
        judge.ask([ask("warm", (), temperature=1.0)])


def test_it_says_that_it_is_small_and_which_weights_it_has(tmp_path):
    archive = Archive(tmp_path / "a.jsonl")
    judge = build(local(), archive)
    judge.ask([ask("x")])
    assert judge.small
    assert "plumbing" in judge.note
    assert judge.grading == "probability"
    assert judge.name.startswith("local:tiny:")
    assert judge.name.endswith(":float32")
    assert len(judge.models) == 1
    assert (judge.usage.calls, judge.usage.money) == (1, 0.0)
    recorded = build(JudgeConfig(kind="recorded", model=judge.name), archive)
    assert recorded.ask([ask("x")]) == judge.ask([ask("x")])
    other = build(JudgeConfig(kind="local", model="tiny:2", device="cpu"), archive)
    assert other.name != judge.name
    other.ask([ask("x")])
    assert other.usage.calls == 1


def test_a_prompt_beyond_the_context_is_refused():
    with pytest.raises(UserError, match="reads at most"):
        build(local()).ask([ask("long " * 5000)])
