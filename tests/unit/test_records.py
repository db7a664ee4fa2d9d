"""Records survive the way to disk and back."""

import pytest

from influbench import files
from influbench.data import records
from influbench.errors import UserError


def example(text):
    return records.Example(id="a", instruction=text, response="r", group="g")


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines", "line\u2028separator", "next\x85line", "é漢🙂", '"quoted"']
)
def test_any_text_round_trips(tmp_path, text):
    path = tmp_path / "x.jsonl"
    files.write_jsonl(path, [example(text), example(text)])
    assert files.read_jsonl(path, records.Example) == [example(text)] * 2


def test_tuples_come_back_as_tuples(tmp_path):
    score = records.Score(id="a", value=0.1 + 0.2, stderr=None, per_reference=(1e-300, -0.0))
    files.write_jsonl(tmp_path / "s.jsonl", [score])
    assert files.read_jsonl(tmp_path / "s.jsonl", records.Score) == [score]


def test_a_torn_line_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(files.to_line(example("a")) + '\n{"id": "b", "instr', encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.jsonl:2: expected a Example record"):
        files.read_jsonl(path, records.Example)


def test_a_missing_or_unknown_field_is_an_error(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a", "instruction": "b"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="response"):
        files.read_jsonl(path, records.Example)


GOOD = {"id": "a", "value": 0.0}


@pytest.mark.parametrize(
    "row",
    [None, [], "x", {}, GOOD | {"value": None}, GOOD | {"id": 1}, GOOD | {"value": []},
     GOOD | {"extra": 1}],
)  # fmt: skip
def test_a_row_of_another_shape_is_no_record(row):
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's words, or ours
        files.from_dict(records.Score, row)


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_jsonl(tmp_path / "s.jsonl", [records.Score(id="a", value=float("nan"))])
    assert list(tmp_path.iterdir()) == []


def test_digest_depends_on_content_and_order():
    a, b = example("a"), example("b")
    assert files.digest([a, b]) == files.digest((a, b))
    assert files.digest([a, b]) != files.digest([b, a])


def test_a_conversation_round_trips(tmp_path):
    earlier = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
    held = records.Example(id="a", instruction="And?", response="Well", earlier=earlier)
    files.write_jsonl(tmp_path / "x.jsonl", [held])
    assert files.read_jsonl(tmp_path / "x.jsonl", records.Example) == [held]
    assert held.turns == (*earlier, ("user", "And?"), ("assistant", "Well"))
    assert held.question == "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: And?"
    assert held.text == "Be brief.\nHi\nHello\nAnd?\nWell"


def test_what_a_plain_example_does_not_use_is_not_in_its_line_or_digest():
    plain = '{"id": "a", "instruction": "i", "response": "r", "group": "g"}'
    assert files.to_line(example("i")) == plain
    cut = records.Example(id="a", instruction="i", response="r", group="g", finished=False)
    assert files.to_line(cut) == plain[:-1] + ', "finished": false}'
