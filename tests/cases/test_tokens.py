"""The tokens that learn are those of the model's own rendering of the whole conversation."""

from __future__ import annotations

import dataclasses
import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.reference import Plain

from influbench import models, testing
from influbench.data.records import Example, Pair
from influbench.errors import UserError
from influbench.estimator import Context, as_scores
from influbench.estimators.exact import Exact
from influbench.generation.sampling import Sampling, complete
from influbench.models import conversation
from influbench.models.chat import DAY
from influbench.student import load_student
from influbench.testing import families
from influbench.training.pair_tokens import tokenise

ENDS = {
    "chatml": "<|im_end|>",
    "base": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "zephyr": "</s>",
    "phi": "<|end|>",
    "dated": "<|eot|>",
    "thinking": "<|im_end|>",
    "reasoning": "<eos>",
    "instruct": "</s>",
    "plain": "### end",
}
"""What each template ends an answer with, by hand."""
OF_STYLE = {family.style: name for name, family in reversed(families.FAMILIES.items())}
EXAMPLES = testing.tiny_examples("c", 4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {style: families.build(name, root / style) for style, name in OF_STYLE.items()}


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers' clock stands where ours does, so that both write the same date."""
    stopped(monkeypatch, DAY)


def stopped(monkeypatch: pytest.MonkeyPatch, day: datetime.datetime) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return day

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)


def held(folder: Path) -> Any:
    return load_student(models.resolve(str(folder)))


@pytest.mark.parametrize("style", sorted(ENDS))
def test_loss_is_that_of_the_response_in_the_templates_own_text(
    style: str, folders: dict[str, Path]
) -> None:
    student, plain = held(folders[style]), Plain(folders[style])
    expected = []
    for example in EXAMPLES:
        ids, start = plain.exchange(example.turns, ENDS[style])
        row = student.encode(example)
        assert list(row.ids) == ids
        assert row.spans == ((start, len(ids)),)
        said = student.tokenizer.decode(row.ids[start:])
        assert said.count(ENDS[style]) == 1
        assert said.endswith(ENDS[style])
        with torch.no_grad():
            expected.append(float(plain.loss(ids, range(start, len(ids)))))
    batches = student.batches(EXAMPLES)
    with torch.no_grad():
        got = {e.id: x for b in batches for e, x in zip(b.examples, student.loss(b), strict=True)}
    np.testing.assert_allclose([float(got[e.id]) for e in EXAMPLES], expected, rtol=2e-6)


@pytest.mark.parametrize("style", ["gemma", "zephyr"])
def test_exact_is_a_real_step_on_the_tokens_that_the_model_was_trained_on(
    style: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    student, plain = held(folders[style]), Plain(folders[style])
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=3e-3)
    student = dataclasses.replace(student, optimizer=optimizer)
    testing.warmed(student, testing.tiny_examples("warm", 6))
    plain.model.load_state_dict(student.model.state_dict())
    references = testing.tiny_examples("reference", 3)
    context = Context(student=student, reference=references, warmup=(), scratch=tmp_path, seed=0)
    got = as_scores(Exact().prepare(context)(EXAMPLES), len(EXAMPLES)).value
    names = [name for name, _ in student.model.named_parameters()]
    rows = [[plain.exchange(e.turns, ENDS[style]) for e in part] for part in (EXAMPLES, references)]
    expected = plain.influences(student.optimizer, names, *rows)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)


TURNS = (
    ("system", "Be brief."),
    ("user", "Name a river."),
    ("assistant", "Rivers change."),
    ("user", "Another?"),
    ("assistant", "The moon."),
)
CHAT = Example(id="chat", instruction="Another?", response="The moon.", earlier=TURNS[:3])

LEARNT = {
    "chatml": ["Rivers change.<|im_end|>", "The moon.<|im_end|>"],
    "dated": ["Rivers change.<|eot|>", "The moon.<|eot|>"],
    "gemma": ["Rivers change.<end_of_turn>", "The moon.<end_of_turn>"],
    "zephyr": ["Rivers change.</s>", "The moon.</s>"],
    "thinking": ["Rivers change.<|im_end|>", "<think>\n\n</think>\n\nThe moon.<|im_end|>"],
    "instruct": ["Rivers change.</s>", "The moon.</s>"],
    "plain": ["Rivers change.\n### end", "The moon.\n### end"],
}


@pytest.mark.parametrize("style", sorted(LEARNT))
def test_all_assistant_turns_of_a_conversation_learn_or_the_last_one(
    style: str, folders: dict[str, Path]
) -> None:
    student, plain = held(folders[style]), Plain(folders[style])
    turns = TURNS
    if style == "gemma":  # it refuses the system turn
        turns = (("user", "Be brief.\n\nName a river."), *TURNS[2:])
    whole = plain.written(turns)
    row = student.encode(CHAT)
    assert plain.ids(whole)[: len(row.ids)] == list(row.ids)
    said = [student.tokenizer.decode(row.ids[a:b]).strip() for a, b in row.spans]
    assert said == LEARNT[style]
    with torch.no_grad():
        (batch,) = student.batches([CHAT])
        assert float(student.loss(batch)[0]) == pytest.approx(
            float(plain.loss(row.ids, row.learned)), rel=2e-6
        )
    last = dataclasses.replace(student, learn="last").encode(CHAT)
    assert (last.ids, last.spans) == (row.ids, row.spans[1:])


def test_a_system_turn_stands_before_the_users_text_only_where_the_template_has_none(
    folders: dict[str, Path],
) -> None:
    asked = [("system", "Be brief."), ("user", "Hi")]
    takes = {s: models.takes_system(models.load_tokenizer(models.resolve(str(folders[s]))))
             for s in ("chatml", "gemma", "instruct")}  # fmt: skip
    assert takes == {"chatml": True, "gemma": False, "instruct": True}
    gemma = models.load_tokenizer(models.resolve(str(folders["gemma"])))
    assert models.chat_prompt(gemma, asked) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_nothing_is_scored_inside_a_thought_that_the_prompt_opens(
    folders: dict[str, Path],
) -> None:
    student = held(folders["reasoning"])
    row = student.encode(EXAMPLES[0])
    assert "<think>" in student.tokenizer.decode(
        student.tokenizer(
            models.chat_prompt(student.tokenizer, [("user", "?")]), add_special_tokens=False
        ).input_ids
    )
    assert "<think>" not in student.tokenizer.decode(row.ids)


@pytest.mark.parametrize("ending", ["", "<|im_end|>", "<|im_end|>\n", "<|im_end|><|im_end|>"])
def test_a_response_that_ends_its_own_turn_gets_no_second_end(
    ending: str, folders: dict[str, Path]
) -> None:
    student = held(folders["chatml"])
    plain = student.encode(Example(id="a", instruction="Hi", response="Hello"))
    own = student.encode(Example(id="a", instruction="Hi", response=f"Hello{ending}"))
    assert own == plain


def test_a_response_that_was_cut_off_has_no_end_to_learn(folders: dict[str, Path]) -> None:
    for style, end in ENDS.items():
        student = held(folders[style])
        whole = student.encode(EXAMPLES[0])
        cut = student.encode(dataclasses.replace(EXAMPLES[0], finished=False))
        assert whole.ids[: len(cut.ids)] == cut.ids
        assert not student.tokenizer.decode(cut.ids).endswith(end)
        assert student.tokenizer.decode(whole.ids[len(cut.ids) :]).strip() == end


def test_the_day_changes_no_token(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = models.load_tokenizer(models.resolve(str(folders["dated"])))
    seen = []
    for day in (3, 4):
        stopped(monkeypatch, datetime.datetime(2031, 1, day))  # noqa: DTZ001
        seen.append(conversation.tokens(tokenizer, EXAMPLES[0].turns))
    assert seen[0] == seen[1]
    assert "Today: 26 Jul 2024" in tokenizer.decode(seen[0].ids)


def test_the_text_begins_with_one_token_that_begins_texts(folders: dict[str, Path]) -> None:
    for style in ("gemma", "dated", "reasoning", "instruct"):
        student = held(folders[style])
        row = student.encode(EXAMPLES[0])
        assert row.ids.count(student.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m['content'] | upper }}<|im_end|>{% endfor %}", "nothing of"),
        (
            "{% for m in messages %}{{ m['content'] }}{{ m['content'] | length }}{% endfor %}",
            "something else around an answer",
        ),
    ],
)
def test_a_template_that_hides_the_answer_is_refused_in_one_line(
    template: str, says: str, tmp_path: Path
) -> None:
    folder = families.build("gpt_neox", tmp_path)
    tokenizer = models.load_tokenizer(models.resolve(str(folder)), chat_template=template)
    with pytest.raises(UserError, match=says) as error:
        conversation.tokens(tokenizer, EXAMPLES[0].turns)
    assert "\n" not in str(error.value)


def test_dpo_trains_on_the_ids_that_the_teacher_sampled(folders: dict[str, Path]) -> None:
    loaded = models.load(models.resolve(str(folders["zephyr"])), device="cpu")
    prompt = models.chat_prompt(loaded.tokenizer, [("user", "Write about rivers.")])
    written = complete(
        *loaded,
        [prompt] * 6,
        ids=[f"r{i}" for i in range(6)],
        seed=0,
        sampling=Sampling(temperature=1.0, max_new_tokens=8),
        batch_size=6,
    )
    differ = 0
    for one, two in pairwise(written):
        pair = Pair(
            id="p", group="g", prompt=prompt, chosen=one.text, rejected=two.text, chosen_id="a",
            rejected_id="b", margin=1.0, prompt_ids=one.prompt_ids, chosen_ids=one.ids,
            rejected_ids=two.ids,
        )  # fmt: skip
        got = tokenise(loaded.tokenizer, pair, 512)
        assert (tuple(got.prompt), tuple(got.chosen)) == (one.prompt_ids, one.ids)
        ended = one.ids[-1] in (loaded.tokenizer.eos_token_id, loaded.tokenizer.pad_token_id)
        assert one.finished or not ended
        own = loaded.tokenizer(one.text, add_special_tokens=False).input_ids
        differ += own != list(one.ids)
    assert differ, "text tokenised alone would have given the same: the case shows nothing"


def test_a_long_example_turns_no_positions_of_a_short_one_in_its_batch(tmp_path: Path) -> None:
    half = families.SIZES["head_dim"] // 2
    folder = families.build(
        *("phi3", tmp_path),
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * half,
            "long_factor": [1.0, 4.0, 16.0, 60.0],
            "original_max_position_embeddings": 64,
            "factor": 64.0,
        },
    )
    student, plain = held(folder), Plain(folder)
    long = Example(id="long", instruction="Write about rivers. " * 20, response="The moon. " * 9)
    rows = [plain.exchange(e.turns, ENDS["phi"]) for e in (*EXAMPLES, long)]
    assert len(rows[0][0]) < 64 < len(rows[-1][0])
    with torch.no_grad():
        expected = [float(plain.loss(ids, range(start, len(ids)))) for ids, start in rows]
        got = np.empty(len(rows))
        for batch in student.batches([*EXAMPLES, long]):
            got[list(batch.positions)] = student.loss(batch).numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-6)
