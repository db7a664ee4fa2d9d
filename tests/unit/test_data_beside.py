"""What stands in columns beside a conversation is in it, or the row is refused; never dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
from refused_rows import is_refused, write

from influbench.data import DataConfig, load_evaluation, load_reference, load_seed_prompts
from influbench.data.examples import as_examples, load_examples
from influbench.errors import UserError
from influbench.evaluation.recorded import read_preferences

SYSTEM, PAST = ("system", "Be a pirate."), (("user", "hello"), ("assistant", "hi"))
PLAIN = {"instruction": "q", "response": "r"}
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
TOLD = [{"role": "system", "content": "Be a pirate."}, *CHAT]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]
FORMS: dict[str, dict[str, Any]] = {
    "alpaca": PLAIN,
    "orca": {"question": "q", "response": "r"},
    "qa": {"question": "q", "answer": "r"},
    "sharegpt": {"conversations": SHAREGPT},
    "messages": {"messages": CHAT},
    "cell": {"messages": json.dumps(CHAT)},
    "prompt": {"prompt": "q", "completion": "r"},
    "prompts": {"prompt": CHAT[:1], "completion": CHAT[1:]},
}


def read(row: dict[str, Any]) -> Any:
    return as_examples([row])[0]


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("form", FORMS)
def test_a_system_prompt_in_a_column_is_the_system_turn(tmp_path: Path, form: str, name: str):
    row = FORMS[form] | {name: SYSTEM[1]}
    wanted = as_examples([{"messages": TOLD}], name="own")
    assert wanted[0].earlier == (SYSTEM,)
    path = write(tmp_path / "own.jsonl", [row])
    assert load_examples(path) == load_reference(DataConfig(reference=str(path))) == wanted
    assert as_examples([row], name="own") == wanted
    assert as_examples([row | {name: [{"type": "text", "text": SYSTEM[1]}]}], name="own") == wanted


@pytest.mark.parametrize("past", [[["hello", "hi"]], '[["hello", "hi"]]', [("hello", "hi")]])
@pytest.mark.parametrize("form", FORMS)
def test_a_history_is_the_turns_before(form: str, past: Any):
    row = FORMS[form] | {"history": past}
    assert read(row).earlier == PAST
    assert read(row | {"system": SYSTEM[1]}).earlier == (SYSTEM, *PAST)


@pytest.mark.parametrize("value", [None, "", "  ", "[]", "null", [], {}, [None], [["", ""]]])
def test_empty_columns_are_not_there(value: Any):
    names = ("system", "system_prompt", "history", "tools", "functions", "documents", "images")
    for row in FORMS.values():
        assert read(row | dict.fromkeys(names, value)) == read(row)
        turn = {"tool_calls": value, "function_call": value, "reasoning_content": value}
        assert read({"messages": [CHAT[0], CHAT[1] | turn]}) == read({"messages": CHAT})
    assert read(PLAIN | {"context": value}) == read(PLAIN)


def test_the_same_system_prompt_may_stand_twice():
    assert read({"messages": TOLD, "system": "Be a pirate. "}) == read({"messages": TOLD})
    assert read(PLAIN | {"system": "s", "system_prompt": "s"}).earlier == (("system", "s"),)


def test_the_context_of_dolly_is_an_input():
    assert read(PLAIN | {"context": "x"}) == read(PLAIN | {"input": "x"})
    assert read(PLAIN | {"context": "x", "input": "x"}) == read(PLAIN | {"input": "x"})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": TOLD, "system": "s"}, "one system prompt, got one in a column and another"),
        (PLAIN | {"system": "s", "system_prompt": "t"}, "others in ['system', 'system_prompt']"),
        (PLAIN | {"system": 3}, "text in 'system', got int '3'"),
        (PLAIN | {"history": "hello"}, "'history' to be a list of pairs of texts"),
        (PLAIN | {"history": [["a", "b", "c"]]}, "list of pairs of texts, [user, assistant], got"),
        (PLAIN | {"history": CHAT}, "list of pairs of texts"),
        (PLAIN | {"history": [["a", ""]]}, "text in 'history[0].assistant', got an empty one"),
        ({"messages": [*CHAT, *CHAT], "history": PAST}, "some in both"),
        (PLAIN | {"context": "x", "input": "y"}, "text in 'input' or in 'context'"),
        (PLAIN | {"context": {"title": "x"}}, "text in 'context', got dict"),
        (FORMS["prompt"] | {"input": "x"}, "nothing in 'input', got str 'x'"),
        (FORMS["prompt"] | {"context": "x"}, "nothing in 'context'"),
        *(
            ({"messages": CHAT, name: [{"name": "f"}]}, f"nothing in '{name}', which is not read")
            for name in ("tools", "functions", "documents", "images", "audio", "video")
        ),
        (PLAIN | {"tools": '[{"name": "f"}]'}, "nothing in 'tools'"),
        (PLAIN | {"chat_template_kwargs": {"enable_thinking": False}}, "'chat_template_kwargs'"),
    ],
)
def test_what_cannot_be_a_turn_is_named(tmp_path: Path, row: dict[str, Any], says: str):
    path = write(tmp_path / "bad.jsonl", [PLAIN, row])
    is_refused(path, says)


CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
PART = {"type": "text", "text": "b"}


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ({"content": "b", "tool_calls": CALL}, "'messages[1].assistant', got a tool call"),
        ({"content": None, "tool_calls": CALL}, "a tool call ('tool_calls')"),
        ({"content": "b", "tool_calls": json.dumps(CALL)}, "a tool call ('tool_calls')"),
        ({"content": "b", "function_call": {"name": "f"}}, "a tool call ('function_call')"),
        ({"content": "b", "reasoning_content": "hm"}, "a thought beside the text"),
        ({"content": "b", "thinking": "hm"}, "a thought beside the text ('thinking')"),
        ({"content": "b", "images": ["a.png"]}, "what is no text ('images')"),
        ({"content": "b", "weight": 0}, "a turn that learns in 'messages[1].assistant'"),
        ({"content": [PART, {"type": "thinking", "thinking": "hm"}]}, "text in 'messages[1]'"),
        ({"content": [PART, {"type": "thinking", "text": "hm"}]}, "text in 'messages[1]'"),
        ({"content": [PART, {"type": "image_url", "image_url": {"url": "u"}}]}, "parts of text"),
        ({"content": [PART, {"type": "input_audio", "text": None}]}, "parts of text"),
        *(
            ({"role": role, "content": "b"}, f"'messages[1]', got '{role}'")
            for role in ("tool", "function", "ipython", "observation", "function_call")
        ),
    ],
)
def test_a_turn_with_more_than_text_is_named(tmp_path: Path, turn: dict[str, Any], says: str):
    turn = {"role": "assistant"} | turn
    path = write(tmp_path / "bad.jsonl", [PLAIN, {"messages": [CHAT[0], turn]}])
    with pytest.raises(UserError) as error:
        load_examples(path)
    assert str(error.value).startswith(f"{path}:2: expected")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    called = {"from" if key == "role" else key: value for key, value in turn.items()}
    called["value"] = called.pop("content")
    with pytest.raises(UserError, match="own row 0: expected"):
        as_examples([{"conversations": [SHAREGPT[0], called]}], name="own")


def test_a_turn_that_learns_may_say_so():
    turns = [CHAT[0] | {"weight": 0}, CHAT[1] | {"weight": 1}]
    assert read({"messages": turns}) == read({"messages": CHAT})


def test_tables_that_pandas_reads_hold_lists_and_missing_values(tmp_path: Path):
    import pandas

    rows = [
        {"messages": CHAT, "system": None, "history": [["hello", "hi"]]},
        {"messages": CHAT, "system": "Be a pirate.", "history": None},
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    table = pandas.read_parquet(tmp_path / "t.parquet")
    wanted = [PAST, (SYSTEM,)]
    assert [e.earlier for e in load_examples(tmp_path / "t.parquet")] == wanted
    assert [e.earlier for e in as_examples(table)] == wanted
    assert [e.earlier for e in as_examples(table.convert_dtypes())] == wanted


def test_a_seed_is_what_is_asked_first_without_its_system_prompt(tmp_path: Path):
    rows = [
        PLAIN | {"system": "s", "tools": CALL},
        PLAIN | {"history": [["hello", "hi"]]},
        {"messages": TOLD, "system": "t"},
    ]
    found = load_seed_prompts(DataConfig(seeds=str(write(tmp_path / "s.jsonl", rows))))
    assert [seed.instruction for seed in found] == ["q", "hello", "q"]
    for row in (PLAIN | {"documents": ["d"]}, FORMS["prompt"] | {"input": "x"}):
        path = write(tmp_path / "t.jsonl", [row])
        with pytest.raises(UserError, match=r"t.jsonl:1: expected .*nothing in"):
            load_seed_prompts(DataConfig(seeds=str(path)))


@pytest.mark.parametrize("name", ["system", "system_prompt", "history", "tools", "images"])
def test_a_question_has_no_place_for_columns_beside_it(tmp_path: Path, name: str):
    cfg = DataConfig(evaluation=str(write(tmp_path / "e.jsonl", [PLAIN | {name: [["a", "b"]]}])))
    with pytest.raises(UserError, match=rf"e.jsonl:1: expected nothing in '{name}'"):
        load_evaluation(cfg)
    write(tmp_path / "e.jsonl", [PLAIN | {name: ""}])
    assert load_evaluation(cfg)[0].turns == ("q",)


def test_a_judge_is_shown_all_that_the_outputs_answer(tmp_path: Path):
    both = {"chosen": "yes", "rejected": "no"}
    rows = [
        {"prompt": TOLD[:2], **both},
        {"prompt": "q", "system": "Be a pirate.", **both},
        {"instruction": "q", "history": [["hello", "hi"]], **both},
        {"prompt": "q", **both},
    ]
    found = [p.instruction for p in read_preferences(write(tmp_path / "p.jsonl", rows))]
    told = "System: Be a pirate.\n\nUser: q"
    assert found == [told, told, "User: hello\n\nAssistant: hi\n\nUser: q", "q"]
    for row in (
        {"prompt": CHAT, **both},
        {"prompt": "q", "tools": CALL, **both},
        {"prompt": "q", "chosen": [CHAT[1] | {"tool_calls": CALL}], "rejected": "no"},
    ):
        with pytest.raises(UserError, match=r"p.jsonl:1: expected"):
            read_preferences(write(tmp_path / "p.jsonl", [row]))
