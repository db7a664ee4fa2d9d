"""A model's own Python code is not run, and nothing ever waits for an answer at the keyboard."""

import ast
import builtins
import json
import shutil
from pathlib import Path

import pytest

import influbench
from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.foreign import environments

PACKAGE = Path(influbench.__file__).parent
CODE = "from pathlib import Path\nPath({mark!r}).touch()\nclass Own: pass\n"


@pytest.fixture(autouse=True)
def keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(prompt: str = "") -> str:
        raise AssertionError(f"waited for an answer to {prompt!r}")

    monkeypatch.setattr(builtins, "input", asked)


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [("AutoConfig", "own"), ("AutoConfig", "llama"), ("AutoTokenizer", "own")],
)
def test_a_model_with_code_of_its_own_is_refused_or_read_without_it(
    tmp_path, tiny_ref, kind, model_type
):
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_ref.path, folder)
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {kind: ["own.Own", None] if kind == "AutoTokenizer" else "own.Own"}
    own = model_type == "own"
    config["model_type"] = model_type if own else config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    ref = ModelRef(path=str(folder), digest="x")
    if own:
        with pytest.raises(UserError) as caught:
            models.load(ref)
        assert "\n" not in str(caught.value)
        assert "trust_remote_code" not in str(caught.value)
    else:  # transformers has the family: its own class is taken
        assert models.load(ref).model.config.model_type == config["model_type"]
    assert not mark.exists()


def test_nothing_in_the_package_asks_at_the_keyboard():
    assert calls_of({"input", "getpass"}) == []


def calls_of(names: set[str]) -> list[str]:
    return [
        f"{path.name}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def test_a_command_that_asks_ends_instead_of_waiting():
    with pytest.raises(UserError, match="EOF"):
        environments._run(["python3", "-c", "input('password: ')"])
    assert (
        environments._run(["python3", "-c", "import os; print(os.environ['PIP_NO_INPUT'])"]) == "1"
    )
