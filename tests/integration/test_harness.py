"""The harness in process gives what its own command line gives, on tasks over local files."""

import json
from pathlib import Path

import children
import pytest

from influbench import models
from influbench.errors import UserError
from influbench.evaluation.suites import harness, harness_files
from influbench.evaluation.suites.harness import TaskConfig

pytest.importorskip("lm_eval")

COLOURS = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "What colour is {{thing}}? Answer:"
doc_to_choice: [red, green, blue, "dark yellow"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
num_fewshot: 0
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "colours.jsonl"
    things = ["grass", "the sea", "blood", "mustard", "a leaf", "the sky", "a rose", "sand"] * 2
    rows = [{"thing": f"{t} {n}", "answer": n % 4} for n, t in enumerate(things)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "colours.yaml").write_text(COLOURS.replace("DATA", str(data)))
    sums = [
        {"question": f"What is {n} plus {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"}
        for n in range(12)
    ]
    for name, part in (("train", sums[:8]), ("test", sums[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return harness_files.offline_gsm8k(
        folder, folder / "train.jsonl", folder / "test.jsonl", shots=2
    )


@pytest.fixture(scope="module")
def student():
    return models.load(models.resolve("tiny"), device="cpu")


def test_numbers_and_items(student, tasks):
    told = {"include_path": tasks, "limit": 10, "batch_size": 4}
    found = harness.evaluate(student, TaskConfig(task="colours", **told))
    numbers = {number.name: number for number in found.numbers}
    accuracy = numbers["colours/acc"]
    items = [o.value for o in found.outcomes if o.metric == "colours/acc"]
    assert len(items) == accuracy.n == 10
    assert accuracy.value == pytest.approx(sum(items) / 10)
    p = accuracy.value
    assert accuracy.stderr == pytest.approx((p * (1 - p) / 9) ** 0.5)
    assert "colours/acc_norm" in numbers
    assert found.shots == {"colours": 0}
    found = harness.evaluate(student, TaskConfig(task="gsm8k_local", **told))
    sums = {number.name: number for number in found.numbers}[
        "gsm8k_local/exact_match/flexible-extract"
    ]
    assert (sums.value, sums.n) == (0.0, 4)
    assert found.shots == {"gsm8k_local": 2}


@pytest.mark.slow
def test_the_command_line_says_the_same(student, tasks, tmp_path):
    saved = tmp_path / "model"
    models.save(student.model, student.tokenizer, saved)
    command = ["run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={saved},dtype=float32", "--tasks", "colours"]
    command += ["--include_path", str(tasks), "--batch_size", "4"]
    command += ["--output_path", str(tmp_path / "out")]
    code = "import runpy; runpy.run_module('lm_eval', run_name='__main__', alter_sys=True)"
    theirs = children.python(code, *command, cwd=tmp_path)
    assert theirs.wait() == 0, theirs.said()[-2000:]
    result = next((tmp_path / "out").rglob("results_*.json"))
    numbers = json.loads(result.read_text())["results"]["colours"]
    found = harness.evaluate(student, TaskConfig(task="colours", include_path=tasks, batch_size=8))
    ours = next(number for number in found.numbers if number.name == "colours/acc")
    assert ours.value == pytest.approx(numbers["acc,none"], abs=1e-12)
    assert ours.stderr == pytest.approx(numbers["acc_stderr,none"], abs=1e-12)


def test_mistakes_are_named(student, tasks, tmp_path):
    with pytest.raises(UserError, match="no task named"):
        harness.evaluate(student, TaskConfig(task="colors", include_path=tasks))
    with pytest.raises(UserError, match="expected a GSM8K file"):
        harness_files.offline_gsm8k(tmp_path, tmp_path / "none.jsonl", tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:1: expected question and answer"):
        harness_files.offline_gsm8k(tmp_path, tmp_path / "bad.jsonl", tmp_path / "bad.jsonl")
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "colours.yaml").write_text(COLOURS.replace("DATA", str(tmp_path / "missing.jsonl")))
    with pytest.raises(UserError, match="data of task 'colours' cannot be had"):
        harness.evaluate(student, TaskConfig(task="colours", include_path=gone))
