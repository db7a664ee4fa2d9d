"""Whatever takes an example takes a conversation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import FINE, WARM, at

from influbench import models, testing
from influbench.data.records import Example
from influbench.estimator import as_scores, registry
from influbench.generation.sampling import Sampling, complete
from influbench.judging import rubric
from influbench.student import load_student
from influbench.testing import families
from influbench.training import fine_tuning, warming

EARLIER = (("system", "Be brief."), ("user", "Name a river."), ("assistant", "Rivers change."))
PLAIN = testing.tiny_examples("chat", 4)
CHATS = [dataclasses.replace(e, earlier=EARLIER) for e in PLAIN]
ALL = (
    *("adam_jvp", "bm25", "datainf", "exact", "first_order", "gradient_dot", "ifd", "judge"),
    *("judge_pairwise", "length", "less", "logra", "loss", "perplexity", "repsim", "self_reward"),
    "trak",
)


@pytest.mark.parametrize("name", ALL)
def test_every_method_reads_all_turns_of_a_conversation(name: str, tmp_path: Path) -> None:
    context = testing.tiny_context(tmp_path, references=3)
    references = [dataclasses.replace(e, earlier=EARLIER) for e in context.reference[:2]]
    context = dataclasses.replace(context, reference=[*references, *context.reference[2:]])
    score = registry.build(name).prepare(context)
    chats, plain = (as_scores(score(part), len(part)).value for part in (CHATS, PLAIN))
    assert np.isfinite(chats).all()
    assert (chats != plain).any()


def test_judges_and_word_counters_see_who_said_what() -> None:
    assert "System: Be brief." in rubric.shown(CHATS[0])
    assert "Assistant: Rivers change." in rubric.shown(CHATS[0])
    assert f"[Response]\n{PLAIN[0].response}" in rubric.shown(CHATS[0])
    assert rubric.shown(PLAIN[0]).startswith(f"[Instruction]\n{PLAIN[0].instruction}\n")


def test_sft_and_warm_up_learn_all_answers_and_no_end_that_was_not_written(tmp_path: Path) -> None:
    folder = families.build("qwen2_base", tmp_path / "m")
    student = load_student(models.resolve(str(folder)))
    cut = dataclasses.replace(PLAIN[1], finished=False)
    encoded = [student.encode(e) for e in (CHATS[0], cut)]
    said = [student.tokenizer.decode([row.ids[n] for n in row.learned]) for row in encoded]
    assert said[0] == f"Rivers change.<|im_end|>{PLAIN[0].response}<|im_end|>"
    assert said[1] == PLAIN[1].response
    chats = at(tmp_path / "sft")
    one = FINE.model_copy(update={"batch_size": 2, "epochs": 1})
    fine_tuning.sft(one, [CHATS[0], cut], models.resolve(str(folder)), work=chats)
    with torch.no_grad():
        counts = torch.tensor([len(row.learned) for row in encoded]).double()
        losses = testing.loss_of_each(student, [CHATS[0], cut]).double()
    assert chats.meta["loss"] == [pytest.approx(float(losses @ counts / counts.sum()), rel=1e-5)]
    work = at(tmp_path / "warm")
    few = WARM.model_copy(update={"batch_size": 2, "epochs": 1})
    warming.warm_up(few, CHATS, models.resolve(str(folder)), work=work)
    with torch.no_grad():
        (batch,) = student.batches([CHATS[i] for i in _first(few)])
        assert work.meta["loss"][0] == pytest.approx(float(student.loss(batch).mean()), rel=1e-5)


def _first(cfg: warming.WarmupConfig) -> list[int]:
    chosen = next(iter(warming._batches(cfg, CHATS)))
    return [CHATS.index(e) for e in chosen]


def test_generation_ends_at_the_templates_end_of_turn_and_keeps_it(tmp_path: Path) -> None:
    """Its end-of-text token is another: such models were told of it nowhere else."""
    folder = families.build("qwen2_base", tmp_path)
    loaded = models.load(models.resolve(str(folder)), device="cpu")
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():  # it writes nothing but the end
        loaded.model.lm_head.weight = torch.nn.Parameter(
            torch.zeros_like(loaded.model.lm_head.weight)
        )
        loaded.model.lm_head.bias = torch.nn.Parameter(
            torch.nn.functional.one_hot(torch.tensor(end), len(loaded.tokenizer)).float()
        )
    prompt = models.chat_prompt(loaded.tokenizer, [("user", "Hi")])
    (written,) = complete(
        *loaded,
        [prompt],
        ids=["a"],
        seed=0,
        sampling=Sampling(temperature=0.0, max_new_tokens=5),
        batch_size=1,
    )
    assert (written.text, written.finished, written.ids) == ("", True, (end,))
    assert written.prompt_ids == tuple(loaded.tokenizer(prompt, add_special_tokens=False).input_ids)


def test_the_loss_of_a_conversation_is_the_mean_over_all_of_its_answers() -> None:
    student = testing.tiny_student()
    both = Example(id="a", instruction="Another?", response="The moon.", earlier=EARLIER)
    row = student.encode(both)
    first, last = (b - a for a, b in row.spans)
    one = dataclasses.replace(student, learn="last")
    with torch.no_grad():
        logits = student.model(input_ids=torch.tensor([row.ids])).logits[0].double()
        nll = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(row.ids[1:]), reduction="none"
        )
        (batch,), (only,) = student.batches([both]), one.batches([both])
        means = [float(nll[a - 1 : b - 1].mean()) for a, b in row.spans]
        assert float(student.loss(batch)[0]) == pytest.approx(
            (first * means[0] + last * means[1]) / (first + last), rel=1e-6
        )
        assert float(one.loss(only)[0]) == pytest.approx(means[1], rel=1e-6)
