"""Texts that meet their neighbours at the edge of an answer, in every template of the kit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cases.reference import Plain
from cases.test_tokens import ENDS, folders, held, today
from transformers import AddedToken

from influbench import models
from influbench.data.records import Example
from influbench.errors import UserError
from influbench.models import conversation
from influbench.testing import families

__all__ = ["folders", "today"]  # fixtures

EDGES = {
    "a space first": " Rivers change.",
    "line breaks first": "\n\nRivers change.",
    "a line break last": "Rivers change.\n",
    "bytes of one character": "\U0001f642 done \U0001f642",
    "a number first": "7 bees",
    "a word of the header": "assistant",
    "a combining mark first": "\u0301 e",
    "one letter": "a",
    "the end in its midst": "a ### end b",
}


@pytest.mark.parametrize("style", sorted(ENDS))
@pytest.mark.parametrize("edge", EDGES)
def test_an_answer_begins_where_the_tokens_leave_the_prompt(
    style: str, edge: str, folders: dict[str, Path]
) -> None:
    student, plain = held(folders[style]), Plain(folders[style])
    example = Example(id="e", instruction="Write about bees.", response=EDGES[edge])
    ids, start = plain.exchange(example.turns, ENDS[style])
    row = student.encode(example)
    assert (list(row.ids), row.response_start) == (ids, start)


def test_an_answer_with_a_thought_learns_what_the_template_leaves_of_it(
    folders: dict[str, Path],
) -> None:
    student = held(folders["reasoning"])
    thought = Example(id="e", instruction="Hi", response="<think>\nhm\n</think>Hello")
    row = student.encode(thought)
    plain = student.encode(Example(id="e", instruction="Hi", response="Hello"))
    assert row == plain


def test_a_special_token_that_swallows_the_spaces_after_it_is_not_the_answers(
    tmp_path: Path,
) -> None:
    folder = families.build("phi3", tmp_path)
    tokenizer = models.load_tokenizer(models.resolve(str(folder)))
    added: list[str | AddedToken] = [
        AddedToken("<|assistant|>", rstrip=True, special=True),
        AddedToken("<|end|>", rstrip=True, special=True),
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    for response in ("Hello", " Hello", "\nHello"):
        got = conversation.tokens(tokenizer, [("user", "Hi"), ("assistant", response)])
        ((start, end),) = got.spans
        assert tokenizer.convert_ids_to_tokens(got.ids[start - 1]) == "<|assistant|>"
        assert tokenizer.convert_ids_to_tokens(got.ids[end - 1]) == "<|end|>"
        said = tokenizer.convert_ids_to_tokens(list(got.ids[start : end - 1]))
        assert "".join(said).strip("▁") == "Hello"


def test_a_template_that_marks_its_answers_itself_gives_the_same(tmp_path: Path) -> None:
    marked = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == "
        "'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    folder = families.build("gpt_neox", tmp_path)
    ref = models.resolve(str(folder))
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "Bees.")]
    own = conversation.tokens(models.load_tokenizer(ref), turns)
    tokenizer = models.load_tokenizer(ref, chat_template=marked)
    assert conversation.tokens(tokenizer, turns) == own
    messages = [{"role": role, "content": text} for role, text in turns]
    written: Any = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    theirs = written["assistant_masks"]
    learned = [t for a, b in own.spans for t in range(a, b)]
    assert [i for i, one in enumerate(theirs) if one] == learned


def test_a_template_that_drops_earlier_turns_is_refused(tmp_path: Path) -> None:
    forgetful = (
        "{% for m in messages[-2:] %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
        "'<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    ref = models.resolve(str(families.build("gpt_neox", tmp_path)))
    tokenizer = models.load_tokenizer(ref, chat_template=forgetful)
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "Bees.")]
    with pytest.raises(UserError, match="cannot be told which tokens are the assistant's"):
        conversation.tokens(tokenizer, turns)
    assert conversation.tokens(tokenizer, turns, learn="last").spans
