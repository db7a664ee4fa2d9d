"""What makes two harness stages the same: the files they read, by content."""

import pytest

from influbench.errors import UserError
from influbench.evaluation.suites import harness
from influbench.evaluation.suites.harness import HarnessSettings

pytest.importorskip("lm_eval")


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "data.jsonl").write_text('{"q": 1}\n')
    (folder / "own.yaml").write_text(
        f"task: own\nprocess: !function helper.run\ndataset_kwargs: {{data_files: "
        f"{{test: [{tmp_path / 'data.jsonl'}]}}}}\n"
    )
    return folder


def suite(task, **settings):
    return harness.suite(
        f"harness:{task}", HarnessSettings(**settings), dtype="float32", device="cpu"
    )


def test_data_that_a_task_file_names_is_part_of_its_content(tasks, tmp_path):
    before = suite("own", include_path=tasks).content
    assert suite("own", include_path=tasks).content == before
    (tmp_path / "data.jsonl").write_text('{"q": 2}\n')
    changed = suite("own", include_path=tasks).content
    assert changed != before
    (tasks / "helper.py").write_text("def run(): ...\n")
    found = suite("own", include_path=tasks)
    assert found.content != changed
    assert "include_path" not in found.cfg.identity()


def test_missing_files_are_named(tasks, tmp_path):
    with pytest.raises(UserError, match=r"needs evaluation\.harness\.gsm8k_train"):
        suite("gsm8k_local")
    gone = tmp_path / "gone.jsonl"
    with pytest.raises(UserError, match=r"expected a file at .*gone\.jsonl"):
        suite("gsm8k_local", gsm8k_train=gone, gsm8k_test=gone)
    with pytest.raises(UserError, match="expected a folder of task files"):
        suite("own", include_path=tmp_path / "none")
    (tasks / "bad.yaml").write_text("task: [unclosed\n")
    with pytest.raises(UserError, match=r"bad\.yaml: expected YAML"):
        suite("own", include_path=tasks)
