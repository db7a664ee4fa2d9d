import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from influbench.data import (
    DataConfig,
    check_overlap,
    load_evaluation,
    load_examples,
    load_questions,
    load_reference,
    load_seed_prompts,
    normalised_hash,
)
from influbench.data.records import Example, Question
from influbench.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="development data absent")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_listing_data_does_not_import_torch():
    code = (
        "import sys; from influbench import data; data.load_reference(data.DataConfig());"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fields_of_an_example(tmp_path: Path):
    rows = [
        {"instruction": "a", "output": "b", "input": ""},
        {"instruction": "a", "input": "x", "response": "c", "id": 7, "group": "g"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]},
        {"prompt": "q", "completion": "r"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "r"}],
        },
        {
            "instruction": None,
            "messages": [
                {"role": "system", "content": ""},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "r"},
            ],
        },
        {
            "messages": json.dumps(
                [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
            )
        },
        {"instruction": "q", "response": None, "output": "r"},
    ]
    assert load_examples(write(tmp_path / "mine.jsonl", rows)) == [
        Example(id="mine-00000", instruction="a", response="b"),
        Example(id="7", instruction="a\n\nx", response="c", group="g"),
        *(Example(id=f"mine-0000{i}", instruction="q", response="r") for i in range(2, 9)),
    ]


def test_a_response_that_was_cut_off_says_so(tmp_path: Path):
    rows = [{"instruction": "a", "output": "b", "finished": said} for said in (False, True, None)]
    found = load_examples(write(tmp_path / "m.jsonl", rows))
    assert [e.finished for e in found] == [False, True, True]
    rows = [{"instruction": "a", "output": "b", "finished": "no"}]
    with pytest.raises(UserError, match="true or false in 'finished'"):
        load_examples(write(tmp_path / "n.jsonl", rows))


def test_a_chat_keeps_its_turns(tmp_path: Path):
    turns = [("system", "s"), ("human", "q"), ("gpt", "a"), ("human", "p"), ("gpt", "b")]
    rows = [
        {"conversations": [{"from": who, "value": text} for who, text in turns]},
        {"messages": [{"role": who, "content": text} for who, text in turns]},
    ]
    earlier = (("system", "s"), ("user", "q"), ("assistant", "a"))
    assert load_examples(write(tmp_path / "m.jsonl", rows)) == [
        Example(id=f"m-0000{i}", instruction="p", response="b", earlier=earlier) for i in (0, 1)
    ]


def test_a_line_separator_inside_a_text_is_not_a_line_end(tmp_path: Path):
    path = tmp_path / "u.jsonl"
    path.write_text(
        json.dumps({"instruction": "a\u2028b\x85c", "response": "d"}, ensure_ascii=False),
        encoding="utf-8",
    )
    assert load_examples(path)[0].instruction == "a\u2028b\x85c"


def test_every_format_gives_the_same_examples(tmp_path: Path):
    rows = [
        {"instruction": f'say "{i}",\nnow', "response": f"é{i}", "id": f"r{i}"} for i in range(5)
    ]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    write(tmp_path / "lines.json", rows)
    with (tmp_path / "c.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["instruction", "response", "id"])
        table.writeheader()
        table.writerows(rows)
    import pandas

    pandas.DataFrame(rows).to_parquet(tmp_path / "d.parquet")
    expected = load_examples(tmp_path / "a.jsonl")
    assert len(expected) == 5
    for name in ("b.json", "lines.json", "c.csv", "d.parquet"):
        assert load_examples(tmp_path / name) == expected, name
        assert load_examples(tmp_path / name, limit=2) == expected[:2], name


def test_a_saved_dataset_loads(tmp_path: Path):
    import datasets

    datasets.Dataset.from_list([{"instruction": "a", "response": "b"}]).save_to_disk(tmp_path / "d")
    assert load_examples(tmp_path / "d") == [Example(id="d-00000", instruction="a", response="b")]


GOOD = '{"instruction": "a", "response": "b"}\n'


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD + "{oops\n", 2, "one JSON object"),
        (GOOD + "\n" + '"text"\n', 3, "an object with named fields"),
        ('{"instruction": "a", "answer": "b"}\n', 1, "'response' (or 'output')"),
        ('{"prompt": "a", "response": "b"}\n', 1, "'instruction'"),
        ('{"instruction": " ", "response": "b"}\n', 1, "'instruction', got an empty one"),
        ('{"instruction": "a", "response": ""}\n', 1, "'response', got an empty one"),
        ('{"instruction": 3, "response": "b"}\n', 1, "got int '3'"),
        ('{"instruction": "a", "response": "b", "id": 1.5}\n', 1, "'id', got float"),
        ('{"instruction": "a", "response": "b", "input": []}\n', 1, "'input', got list"),
        ('{"instruction": "a", "response": "\\ud800"}\n', 1, "valid Unicode"),
        ('{"instruction": "a", "response": "b", "id": "\\ud800"}\n', 1, "valid Unicode in 'id'"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}\n', 1, "valid Unicode"),
        ('{"instruction": ' + 99999 * "[", 1, "maximum recursion"),
        ('{"messages": "hi"}\n', 1, "list of objects"),
        ('{"messages": [{"role": "user"}]}\n', 1, "'role' and 'content'"),
        ('{"messages": [{"role": "user", "content": "q"}]}\n', 1, "roles ['user']"),
        ('{"conversations": [{"from": "gpt", "value": "hi"}]}\n', 1, "roles ['assistant']"),
        ('{"conversations": [{"from": "human"}]}\n', 1, "'from' and 'value'"),
        ('{"messages": [{"role": "tool", "content": "q"}]}\n', 1, "got 'tool'"),
        (
            '{"messages": [{"role": "assistant", "content": null, "tool_calls": [1]}]}\n',
            1,
            "a tool call",
        ),
        ('{"messages": [{"role": "user", "content": [{"image": "x"}]}]}\n', 1, "parts of text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, line: int, says: str):
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_examples(path)
    assert str(error.value).startswith(f"{path}:{line}: expected")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_duplicate_ids_name_both_lines(tmp_path: Path):
    path = write(tmp_path / "d.jsonl", [{"id": "x", "instruction": "a", "response": "b"}] * 2)
    with pytest.raises(UserError, match=r"d.jsonl:2: .*'x' again \(first at .*d.jsonl:1\)"):
        load_examples(path)


def test_json_lists_name_the_line_of_the_item(tmp_path: Path):
    path = tmp_path / "j.json"
    path.write_text('[\n{"instruction": "a", "response": "b"},\n\n{"instruction": "c"}\n]')
    with pytest.raises(UserError, match=r"j.json:4: expected a field 'response'"):
        load_examples(path)
    path.write_text(99999 * "[")
    with pytest.raises(UserError, match=r"j.json: expected a JSON list.*maximum recursion"):
        load_examples(path)
    path.write_text('[\n{"instruction": "a",,\n]')
    with pytest.raises(UserError, match=r"j.json:2: expected a JSON list"):
        load_examples(path)


def test_csv_lines_count_line_breaks_in_cells(tmp_path: Path):
    path = tmp_path / "c.csv"
    path.write_text('instruction,response\n"a\nb",c\nd\n')
    with pytest.raises(UserError, match=r"c.csv:4: expected 2 columns .* got fewer"):
        load_examples(path)


def test_missing_empty_and_binary_files(tmp_path: Path):
    with pytest.raises(UserError, match="there is no such file"):
        load_examples(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="got an empty one"):
        load_examples("")
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(UserError, match="got an empty file"):
        load_examples(tmp_path / "e.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"ab\xff")
    with pytest.raises(UserError, match="expected UTF-8 text, got byte 0xff at offset 2"):
        load_examples(tmp_path / "b.jsonl")
    (tmp_path / "p.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="expected a Parquet file"):
        load_examples(tmp_path / "p.parquet")


def test_starter_sets_are_disjoint_and_taken_category_by_category():
    everything = DataConfig()
    seeds, reference = load_seed_prompts(everything), load_reference(everything)
    evaluation, questions = load_evaluation(everything), load_questions(everything)
    ids = [r.id for part in (seeds, reference, evaluation, questions) for r in part]
    assert len(ids) == len(set(ids))
    assert check_overlap(reference, evaluation, leaky=False) == 0
    assert all(question.reference for question in evaluation)
    few = load_evaluation(DataConfig(num_evaluation=8))
    assert few == evaluation[:8]
    assert len({question.category for question in few}) == 8


def test_more_than_there_is_is_refused(tmp_path: Path):
    path = write(tmp_path / "r.jsonl", [{"instruction": "a", "response": "b"}])
    with pytest.raises(UserError, match=r"data.num_reference = 2: expected at most the 1 rows"):
        load_reference(DataConfig(reference=str(path), num_reference=2))


def test_categories_take_turns(tmp_path: Path):
    rows = [{"question_id": i, "category": c, "turns": [str(i)]} for i, c in enumerate("aaabbc")]
    path = write(tmp_path / "q.jsonl", rows)
    found = load_questions(DataConfig(questions=str(path), num_questions=5))
    assert [q.id for q in found] == ["0", "3", "5", "1", "4"]


def test_question_layouts(tmp_path: Path):
    rows = [
        {"question_id": 81, "category": "math", "turns": ["a", "b"], "reference": ["c", ""]},
        {"prompt_id": 5, "category": "math", "prompt": ["a"], "reference": []},
        {"instruction": "x", "output": "y", "dataset": "koala"},
    ]
    found = load_questions(DataConfig(questions=str(write(tmp_path / "q.jsonl", rows))))
    assert sorted(found, key=lambda q: q.id) == [
        Question(id="5", category="math", turns=("a",)),
        Question(id="81", category="math", turns=("a", "b"), reference=("c", "")),
        Question(id="q-00002", category="koala", turns=("x",), reference=("y",)),
    ]
    with pytest.raises(UserError, match=r"q.jsonl:1: expected an evaluation prompt of one turn"):
        load_evaluation(DataConfig(evaluation=str(tmp_path / "q.jsonl")))


@pytest.mark.parametrize(
    "prompt", ["What is AI?", "  what  is\nai ", '"What is AI?!"', "WHAT IS AI"]
)
def test_normalised_hash_ignores_case_spacing_and_outer_punctuation(prompt: str):
    assert normalised_hash(prompt) == normalised_hash("what is ai")


def test_normalised_hash_keeps_inner_punctuation():
    assert normalised_hash("a, b") != normalised_hash("a b")


def test_overlap_is_refused_unless_leaky():
    reference = [Example(id=i, instruction=i, response="r") for i in ("One.", "Two", "Three")]
    evaluation = [Question(id=i, category="", turns=(i,)) for i in ("one", "TWO!", "four")]
    with pytest.raises(UserError, match=r"got 2 of 3 \(for example 'One.'.*data.leaky"):
        check_overlap(reference, evaluation, leaky=False)
    assert check_overlap(reference, evaluation, leaky=True) == 2
    assert check_overlap(reference[2:], evaluation, leaky=False) == 0


@pytest.mark.parametrize("source", ["alpaca_eval:first256", "tatsu-lab/alpaca_eval"])
def test_the_papers_leaky_reference_needs_the_switch(source: str):
    with pytest.raises(UserError, match=r"AlpacaEval's test prompts.*data.leaky = true"):
        load_reference(DataConfig(reference=source))


def test_first_rows_of_a_source(tmp_path: Path):
    path = write(tmp_path / "r.jsonl", [{"instruction": str(i), "response": "b"} for i in range(9)])
    found = load_reference(DataConfig(reference=f"{path}:first3"))
    assert [example.instruction for example in found] == ["0", "1", "2"]


@needs_data
def test_real_files_load():
    alpaca = load_examples(DATA / "alpaca" / "alpaca_en_demo.json")
    assert (len(alpaca), alpaca[12].id) == (999, "alpaca_en_demo-00012")
    assert len(load_examples(DATA / "self_instruct" / "user_tasks.jsonl")) == 252
    folder = DATA / "mt_bench"
    questions = load_questions(
        DataConfig(
            questions=str(folder / "question.jsonl"),
            question_answers=str(folder / "reference_gpt-4.jsonl"),
        )
    )
    assert len(questions) == 80
    assert {q.category for q in questions if q.reference} == {"math", "reasoning", "coding"}


@needs_data
def test_the_papers_reference_is_alpaca_evals_first_256_prompts():
    path = DATA / "alpaca_eval" / "gpt4_1106_preview.json"
    reference = load_reference(DataConfig(reference=f"{path}:first256"))
    evaluation = load_evaluation(DataConfig(evaluation=str(path)))
    assert len(evaluation) == 805
    assert check_overlap(reference, evaluation, leaky=True) == 256


def test_seed_prompts_come_from_rows_of_every_kind_answered_or_not(tmp_path: Path):
    chat = [("system", "Be kind."), ("user", "Sort these."), ("assistant", "A"), ("user", "More?")]
    rows = [
        {"instruction": "Sort these.", "input": "3 1 2"},
        {"question": "What is 2+2?", "answer": "4"},
        {"prompt": "Name a fish."},
        {"prompt": [{"role": "user", "content": "Name a bird."}], "completion": "A wren."},
        {"messages": [{"role": role, "content": text} for role, text in chat]},
        {"conversations": [{"from": "human", "value": "Name a tree."}]},
    ]
    found = load_seed_prompts(DataConfig(seeds=str(write(tmp_path / "own.jsonl", rows))))
    assert [seed.instruction for seed in found] == [
        *("Sort these.\n\n3 1 2", "What is 2+2?", "Name a fish.", "Name a bird."),
        *("Sort these.", "Name a tree."),
    ]
    silent = write(
        tmp_path / "silent.jsonl", [{"messages": [{"role": "system", "content": "Be."}]}]
    )
    with pytest.raises(UserError, match=r"silent.jsonl:1: expected a user's turn in 'messages'"):
        load_seed_prompts(DataConfig(seeds=str(silent)))
    other = write(tmp_path / "other.jsonl", [{"text": "?"}])
    with pytest.raises(UserError, match=r"expected a field 'instruction', got fields \['text'\]"):
        load_seed_prompts(DataConfig(seeds=str(other)))
