"""A row that holds its example twice is read where both say the same, and refused where not."""

import json
from pathlib import Path
from typing import Any

import pytest
from refused_rows import is_refused, write

from influbench.data import DataConfig, load_evaluation, load_seed_prompts
from influbench.data.examples import as_examples
from influbench.errors import UserError
from influbench.evaluation.recorded import read_preferences


def chat(question: str = "q", answer: str = "r", *before: dict[str, str]) -> list[dict[str, str]]:
    asked, said = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return [*before, asked, said]


SYSTEM = {"role": "system", "content": "Be a pirate."}
PLAIN = {"instruction": "q", "response": "r"}
QUESTION = {"question": "q", "answer": "r"}
PROMPT = {"prompt": "q", "completion": "r"}
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]


def read(row: dict[str, Any]) -> Any:
    return as_examples([row])[0]


@pytest.mark.parametrize(
    "row",
    [
        PLAIN | {"messages": chat()},
        PLAIN | {"messages": json.dumps(chat("q ", "r\n"))},
        PLAIN | {"conversations": SHAREGPT, "messages": chat()},
        PLAIN | QUESTION | PROMPT,
        PLAIN | {"output": "r", "completion": "r"},
        PLAIN | {"messages": None, "output": "", "question": " ", "prompt": ""},
        PLAIN | {"messages": [], "conversations": "[]", "conversation": "number 7"},
        {"instruction": "", "response": None, "messages": chat()},
        {"instruction": None, "question": "", "answer": "", **PROMPT},
        {"instruction": "", **QUESTION},
        {"instruction": "q", "response": "", "output": "r"},
        {"messages": chat(), "prompt": "q"},  # UltraChat
        {"messages": chat(), "prompt": "<|user|>\nq<|assistant|>\n"},
        {"messages": chat(), "instruction": "q", "answer": "another"},
        QUESTION | {"messages": chat(), "response": "r"},
        PROMPT | {"response": "r"},
        PLAIN | {"prompt": "Below is an instruction.\n\nq"},
    ],
)
def test_what_says_the_same_twice_is_one_example(row: dict[str, Any]):
    found = read(row)
    assert (found.instruction.strip(), found.response.strip(), found.earlier) == ("q", "r", ())
    assert as_examples([row], reference=True)[0].response.strip() == "r"


def test_an_input_is_part_of_the_question_that_is_compared():
    row = PLAIN | {"input": "x", "messages": chat("q\nx")}
    assert read(row) == read(PLAIN | {"input": "x"})
    told = PLAIN | {"system": SYSTEM["content"], "messages": chat("q", "r", SYSTEM)}
    assert read(told) == read({"messages": chat("q", "r", SYSTEM)})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (PLAIN | {"messages": chat("other")}, "the same in 'instruction' and 'messages', got 'q'"),
        (PLAIN | {"messages": chat("q", "other")}, "'messages', got 'r' and 'other'"),
        (PLAIN | {"messages": chat("q", "r", SYSTEM)}, "'instruction' and 'messages'"),
        (PLAIN | {"messages": [*chat(), *chat("more", "said")]}, "'instruction' and 'messages'"),
        (PLAIN | {"conversation": chat("other")}, "'instruction' and 'conversation'"),
        ({"messages": chat(), "conversations": chat("other")}, "'messages' and 'conversations'"),
        (PLAIN | {"messages": [SYSTEM]}, "user and assistant in turn in 'messages'"),
        (QUESTION | {"messages": chat("other")}, "'question' and 'messages'"),
        (PROMPT | {"messages": chat("other")}, "'messages' and 'prompt'"),
        (PLAIN | {"prompt": "p", "completion": "c"}, "'instruction' and 'prompt', got 'q' and 'p'"),
        (QUESTION | PROMPT | {"completion": "c"}, "'question' and 'prompt', got 'r' and 'c'"),
        (PLAIN | {"question": "other"}, "'instruction' and 'question', got 'q' and 'other'"),
        (PLAIN | {"output": "other"}, "'response' and 'output', got 'r' and 'other'"),
        (PLAIN | {"completion": "other"}, "'completion' and 'response', got 'other' and 'r'"),
        (QUESTION | {"response": "long"}, "'response' and 'answer', got 'long' and 'r'"),
        (QUESTION | {"output": "other"}, "'output' and 'answer'"),
        (PROMPT | {"response": "other"}, "'response' and 'completion'"),
        (PLAIN | {"prompt": "other"}, "'prompt' and 'instruction'"),
        ({"messages": chat(), "instruction": "Translate."}, "'instruction' and 'messages'"),
        ({"messages": chat(), "response": "other"}, "'response' and 'messages'"),
        ({"messages": chat(), "prompt": "other"}, "'prompt' and 'messages', got 'other'"),
    ],
)
def test_what_says_two_things_is_refused(tmp_path: Path, row: dict[str, Any], says: str):
    path = write(tmp_path / "two.jsonl", [PLAIN, row])
    is_refused(path, says)


def test_the_chosen_of_two_answers_is_the_one_that_is_read():
    def reference(row: dict[str, Any]) -> Any:
        return as_examples([row], reference=True)[0]

    two = {"chosen": "r", "rejected": "s"}
    for row in (PLAIN, PROMPT, {"prompt": "q"}, {"messages": chat()}, QUESTION):
        assert (reference(row | two).response, reference(row | two).rejected) == ("r", "s")
    for row in (PLAIN, PROMPT, {"messages": chat()}, QUESTION):
        with pytest.raises(UserError, match="the row's answer in 'chosen', got 'other'"):
            reference(row | two | {"chosen": "other"})
    assert read(PLAIN | two | {"chosen": "other"}).response == "r"  # candidates have no rivals
    assert reference(PLAIN | {"chosen": "model_a"}).response == "r"


def test_a_seed_that_is_asked_twice_is_asked_the_same(tmp_path: Path):
    def seed(row: dict[str, Any]) -> str:
        path = write(tmp_path / "s.jsonl", [row])
        return load_seed_prompts(DataConfig(seeds=str(path)))[0].instruction

    unanswered = [{"role": "user", "content": "q"}]
    for row in (
        {"instruction": "q", "messages": unanswered, "prompt": "Instruction: q"},
        {"prompt": "q", "messages": chat()},
        {"prompt": "", "messages": unanswered},
    ):
        assert seed(row) == "q"
    for row in (
        {"instruction": "q", "messages": chat("other")},
        {"instruction": "q", "prompt": "other"},
        {"prompt": "q", "messages": chat("other")},
        {"messages": chat(), "conversations": chat("other")},
        {"instruction": "q", "question": "other"},
    ):
        with pytest.raises(UserError, match=r"s.jsonl:1: expected the same in"):
            seed(row)


def test_a_question_that_is_asked_twice_is_asked_the_same(tmp_path: Path):
    def question(row: dict[str, Any]) -> Any:
        return load_evaluation(DataConfig(evaluation=str(write(tmp_path / "e.jsonl", [row]))))[0]

    assert question(QUESTION).reference == ("r",)  # as that of an instruction
    assert question({"question": "q"}).reference is None
    assert question(PLAIN | {"messages": chat()}).turns == ("q",)
    assert question({"turns": ["q"], "prompt": ["q"], "instruction": "q"}).turns == ("q",)
    for row in (
        {"turns": ["q"], "prompt": ["other"]},
        {"turns": ["q"], "instruction": "other"},
        PLAIN | {"messages": chat("other")},
        PLAIN | {"output": "other"},
    ):
        with pytest.raises(UserError, match=r"e.jsonl:1: expected the same in"):
            question(row)


def test_a_preference_that_is_asked_twice_is_asked_the_same(tmp_path: Path):
    both = {"chosen": "yes", "rejected": "no"}
    rows = [{"instruction": "q", "prompt": "q"}, {"instruction": "", "prompt": "q"}]
    path = write(tmp_path / "p.jsonl", [row | both | {"id": str(n)} for n, row in enumerate(rows)])
    assert [p.instruction for p in read_preferences(path)] == ["q", "q"]
    write(path, [{"instruction": "q", "prompt": "other", **both}])
    with pytest.raises(UserError, match="the same in 'instruction' and 'prompt'"):
        read_preferences(path)
