"""What pages and messages tell a reader to type is there: commands, their options, settings."""

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from influbench.cli.main import app
from influbench.evaluation.judge_check import JudgeCheckConfig
from influbench.evaluation.standalone import EvaluateConfig
from influbench.loop.settings import RunConfig
from influbench.report.comparison import CompareConfig
from influbench.scoring.rank import RankConfig

ROOT = Path(__file__).parents[2]
HISTORY = {"LOG.md", "CHANGELOG.md"}
PAGES = [p for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if p.name not in HISTORY]
SOURCES = sorted((ROOT / "influbench").rglob("*.py"))
CONFIGS = (RunConfig, RankConfig, EvaluateConfig, JudgeCheckConfig, CompareConfig)
OTHER_PROGRAMS = {
    "--force-reinstall", "--no-deps", "--no-compile",  # pip
    "--nproc-per-node",  # torchrun
    "--max-model-len",  # vLLM
    "--pairs", "--training", "--profile",  # python -m benchmarks.arm
}  # fmt: skip
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
COMMAND = re.compile(r"(?:^|[`'\"]|-m )influbench ((?:store )?[a-z][a-z-]+)([^`'\n]*)", re.M)
SETTING = re.compile(r"--set '?([a-z_]+(?:\.[a-z0-9_]+)*)=")
SHOWN = re.compile(r"(?<!`)`([a-z_]+(?:\.[a-z_]+)+)(?<!\.json)(?<!\.jsonl)(?:=[^`]*)?`(?!`)")


def options_of(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    yield name, {option for each in command.params for option in each.opts} | {"--help"}
    for below, inner in getattr(command, "commands", {}).items():
        yield from options_of(inner, f"{name} {below}".strip())


COMMANDS = dict(options_of(typer.main.get_command(app)))


def settings_of(kind: type[BaseModel]) -> Iterator[str]:
    """Dotted names; ``NAME.`` where any key may follow, as in the options of an estimator."""
    for name, field in kind.model_fields.items():
        yield name
        for part in (field.annotation, *parts_of(field.annotation)):
            if inspect.isclass(part) and issubclass(part, BaseModel):
                yield from (f"{name}.{below}" for below in settings_of(part))
            elif typing.get_origin(part) is dict:
                yield f"{name}."


def parts_of(annotation: Any) -> Iterator[Any]:
    for part in typing.get_args(annotation):
        yield part
        yield from parts_of(part)


SETTINGS = {name for config in CONFIGS for name in settings_of(config)}


def texts(path: Path) -> list[str]:
    """A page, its commands each on one line; of a source, the strings that are for a reader."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [text.replace("\\\n", " ")]
    strings = (n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant))
    return [s for s in strings if isinstance(s, str) and not s.startswith("-")]


def is_setting(name: str) -> bool:
    return name in SETTINGS or any(k.endswith(".") and name.startswith(k) for k in SETTINGS)


def missing(path: Path) -> list[str]:
    """What a text names and the command line lacks."""
    found: list[str] = []
    known = set().union(*COMMANDS.values()) | OTHER_PROGRAMS
    groups = {setting.split(".")[0] for setting in SETTINGS}
    for text in texts(path):
        found += [option for option in OPTION.findall(text) if option not in known]
        for command, rest in COMMAND.findall(text):
            mine = COMMANDS.get(command)
            found += (
                [f"influbench {command}"]
                if mine is None
                else [f"{command} {o}" for o in OPTION.findall(rest) if o not in mine]
            )
        found += [f"--set {name}" for name in SETTING.findall(text) if not is_setting(name)]
        shown = [name for name in SHOWN.findall(text) if name.split(".")[0] in groups]
        found += [name for name in shown if not is_setting(name)]
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(path):
    assert missing(path) == []


def test_what_a_message_names_is_there():
    assert {path.name: gone for path in SOURCES if (gone := missing(path))} == {}


def test_what_is_not_there_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`influbench rate` or `influbench plan --top 3`, `--judge-set a=1`, `judge.thought`,\n"
        "`--set student.clip=1`; `influbench plan --devices 8xH100`, `judge.extra`, `a.b`\n"
        "influbench score --student S \\\n    --set options.anything=1 --baseline B\n"
    )
    assert missing(page) == [
        "--judge-set", "influbench rate", "plan --top", "score --baseline",
        "--set student.clip", "judge.thought",
    ]  # fmt: skip
