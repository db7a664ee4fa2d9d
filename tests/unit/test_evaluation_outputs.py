"""Baselines that are no models, and tables of difficulties."""

import json

import pytest

from influbench.data import DataConfig, load_evaluation
from influbench.errors import UserError
from influbench.evaluation import recorded
from influbench.evaluation.length_control import read_gamed

PROMPTS = [
    {"instruction": "Name a lake.", "output": "Bled.", "dataset": "koala"},
    {"instruction": "Name a tree.", "output": "Oak.", "dataset": "koala"},
    {"instruction": "Name a bird.", "output": "Owl.", "dataset": "vicuna"},
]


def save(path, rows):
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def source(tmp_path):
    return str(save(tmp_path / "prompts.json", PROMPTS))


@pytest.fixture
def questions(source):
    found = load_evaluation(DataConfig(evaluation=source))
    assert [q.turns[0][7:-1] for q in found] == ["lake", "bird", "tree"]  # in turns
    return found


def test_outputs_are_matched_by_instruction(tmp_path, questions):
    rows = [
        {"instruction": "Name a bird.", "output": "", "generator": "gpt-x"},
        {"instruction": "Name a tree.", "output": "Elm.", "generator": "gpt-x"},
        {"instruction": "Name a lake.", "output": "Como.", "generator": "gpt-x"},
        {"instruction": "Name a car.", "output": "Mini.", "generator": "gpt-x"},
    ]
    name, answers = recorded.read_outputs(save(tmp_path / "o.json", rows), questions)
    assert name == "gpt-x"
    assert [a.responses[0] for a in answers] == ["Como.", "", "Elm."]
    assert [a.id for a in answers] == [q.id for q in questions]


def test_a_missing_output_and_a_wrong_row_are_named(tmp_path, questions):
    path = save(tmp_path / "o.json", [{"instruction": "Name a lake.", "output": "Como."}])
    with pytest.raises(UserError, match=r"o\.json: expected an output for each of the 3"):
        recorded.read_outputs(path, questions)
    path = save(tmp_path / "p.json", [{"instruction": "Name a lake.", "answer": "Como."}])
    with pytest.raises(UserError, match=r"p\.json:1: expected instruction and output"):
        recorded.read_outputs(path, questions)


def test_the_prompts_own_outputs(source, questions, tmp_path):
    answers = recorded.own_outputs(questions, source)
    assert [a.responses[0] for a in answers] == ["Bled.", "Owl.", "Oak."]
    bare = save(tmp_path / "bare.json", [{"instruction": "Name a lake."}])
    found = load_evaluation(DataConfig(evaluation=str(bare)))
    with pytest.raises(UserError, match="give --baseline"):
        recorded.own_outputs(found, str(bare))


def test_difficulties_by_place_in_the_source_or_by_instruction(source, questions, tmp_path):
    by_place = tmp_path / "place.csv"
    by_place.write_text(",instruction_difficulty\n0,0.5\n1,1.5\n2,2.5\n")
    found = recorded.difficulties(source, by_place, questions)
    assert [found[q.id] for q in questions] == [0.5, 2.5, 1.5]
    rows = [
        {"instruction": p["instruction"], "instruction_difficulty": n}
        for n, p in enumerate(PROMPTS)
    ]
    found = recorded.difficulties(source, save(tmp_path / "text.json", rows), questions)
    assert [found[q.id] for q in questions] == [0, 2, 1]
    with pytest.raises(UserError, match="1 have none, first 'prompts-00002'"):
        recorded.difficulties(source, save(tmp_path / "text.json", rows[:2]), questions)
    by_place.write_text("index,instruction_difficulty\n0,hard\n")
    with pytest.raises(UserError, match="'instruction_difficulty', got 'hard'"):
        recorded.difficulties(source, by_place, questions)


def test_gamed_difficulties_by_place(source, questions, tmp_path):
    path = tmp_path / "df_gamed.csv"
    head = "preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    path.write_text(head + "0.5,0,0.1,1.0,1\n0.5,1,0.1,2.0,1\n0.5,2,0.1,3.0,0\n")
    found = recorded.gamed_difficulties(source, read_gamed(path), path, questions)
    assert [found[q.id] for q in questions] == [1.0, 3.0, 2.0]
    path.write_text(head + "0.5,0,0.1,1.0,1\n")
    with pytest.raises(UserError, match="2 have none"):
        recorded.gamed_difficulties(source, read_gamed(path), path, questions)
