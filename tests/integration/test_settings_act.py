"""Every setting of a run acts: it changes what some stage is told, or is declared transport.

A run of ``tiny`` is done once; then the loop is run again for every setting changed, over the kept
results of that run, and what its stages are told is written down. Nothing is computed: a setting
acts through the loop's own code, which makes the stages' configurations and inputs.
"""

import functools
import json
import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from influbench.config import from_settings
from influbench.data import load_evaluation
from influbench.data.records import ModelRef
from influbench.evaluation import recorded
from influbench.files import digest
from influbench.loop import pipeline, publish, sets
from influbench.loop.reading import load_run
from influbench.loop.settings import RunConfig
from influbench.models import resolving
from influbench.store import Store
from influbench.store.session import Session
from influbench.store.store import _identity

BASE = ["scoring.compare=[exact]", "data.num_evaluation=10", "sizes.training=4"]
TASK = ["evaluation.suites=[losses, 'harness:gsm8k_local']"]
TASK += ["evaluation.harness.gsm8k_train={train}", "evaluation.harness.gsm8k_test={train}"]
OTHER: dict[str, Any] = {
    "scoring.estimator": "length",
    "scoring.compare": ["exact", "random"],
    "scoring.options": {"baseline": "before"},
    "students": [{"name": "tiny:1"}],
    "teacher.chat_template": "chatml",
    "student.chat_template": "chatml",
    "teacher.revision": "main",
    "student.revision": "main",
    "preferences.noise_floor": 10.0,
    "preferences.equal_count": 1,
    "preferences.margin_stderrs": 1e-6,
    "data.num_seeds": 7,
    "data.seeds": "starter_short",
    "data.reference": "starter_short",
    "data.evaluation": "starter_short",
    "data.questions": "@questions",
    "data.question_answers": "@answers",
    "evaluation.suites": ["losses"],
    "evaluation.difficulty": "@difficulty",
    "evaluation.gamed": "@gamed",
    "judge.top_logprobs": 19,
    "generation.response_request": "Well: {instruction}",
    "scoring.budget.passes_per_candidate": 3.5,
    "scoring.budget.seconds": 1.5,
    **{
        f"{part}.vllm_arguments": ["--max-model-len=64"]
        for part in ("generation", "evaluation.answers", "evaluation.turns", "judge")
    },
    **{f"evaluation.{part}.engine": "vllm" for part in ("answers", "turns")},
}
"""Other values, where one more or one word else would be refused."""
ALSO: dict[str, dict[str, Any]] = {
    f"{stage}.schedule.{part}": {f"{stage}.schedule.{rest}": value}
    for stage in ("dpo", "sft")
    for part, rest, value in (
        ("warmup", "decay", 0.45), ("stable", "decay", 0.65), ("decay", "stable", 0.7),
    )
}  # fmt: skip
"""What must change with a setting, since the three parts of a schedule add up to 1, say."""
ALSO["dpo.target"] = {"generation.responses_per_instruction": 2}
ALSO["generation.responses_per_instruction"] = {"dpo.target": "response"}
WITH: dict[str, list[str]] = {
    "teacher.kind": [
        *("scoring.estimator=none", "generation.prefill=false", "generation.server_url=http://x"),
        "generation.instruction.repetition_penalty=1",
    ],
    "preferences.margin_stderrs": ["preferences.rule=margin"],
    "stop_after": ["scoring.estimator=none"],
    "generation.engine": ["scoring.estimator=none"],
    **{
        f"evaluation.harness.{name}": TASK
        for name in ("shots", "limit", "chat", "seed", "max_length")
    },
}
"""What a setting needs beside it to mean anything."""


def leaves(kind: type[BaseModel], value: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name of every setting -> its field and value."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, field in kind.model_fields.items():
        own, inner = getattr(value, name), f"{path}{name}"
        if isinstance(own, BaseModel):
            parts = leaves(type(own), own, f"{inner}.")
            # All parts of a setting that is declared transport are so.
            found |= (
                {n: (field, v) for n, (_, v) in parts.items()} if is_transport(field) else parts
            )
        else:
            found[inner] = (field, own)
    return found


def is_transport(field: Any) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("transport"))


def another(name: str, field: Any, value: Any) -> Any:
    """A value that the setting does not have."""
    if name in OTHER:
        return OTHER[name]
    choices = [a for t in (field.annotation, *get_args(field.annotation)) for a in words(t)]
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if value is None:
        return 3 if int in get_args(field.annotation) else "other"
    if isinstance(value, dict):
        return {"more": 1.0}
    return f"{value}:1" if name.endswith(".name") else f"{value}x"


def words(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


class Written(Session):
    """Writes down what stages are told, and answers with the entries of an earlier run."""

    def __init__(self, before: Session) -> None:
        super().__init__(before.store)
        self.before = before.entries
        self.told: list[tuple[str, str]] = []

    def run(self, stage, cfg, *inputs, label="") -> Any:
        identity = [stage.name, cfg.identity(), [_identity(value) for value in inputs]]
        told = digest(json.dumps(identity, sort_keys=True))
        self.told.append((stage.name, told))
        label = re.sub(r"round\d+", "round1", label)
        same = [e for e in self.before.values() if e.path.name.startswith(f"{stage.name}-")]
        named = [e for e in same if e.path.name.startswith(f"{stage.name}-{label}-")]
        if not same:  # a template, a task of the harness
            return Unknown(told)
        entry = (named or same)[0]
        self.entries.setdefault((entry.key, entry.path.name), entry)
        return entry


@dataclass
class Unknown:
    """Stands for the entry of a stage that the run before did not have."""

    told: str
    meta: ClassVar[dict[str, Any]] = {"shots": {}, "passes_per_second": 1.0}

    def model(self, name):
        return ModelRef(path="", digest=f"{self.told}/{name}")

    def records(self, name, kind):
        return []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that settings name, by the word that stands for each."""
    folder = tmp_path_factory.mktemp("files")
    prompts = [q.turns[0] for q in load_evaluation(load_run("tiny", BASE).data)]
    questions = [{"id": f"q{i}", "turns": ["a?", "b?"]} for i in range(3)]
    answers = [{"question_id": "mt-writing-1", "choices": [{"turns": ["a", "b"]}]}]
    difficulty = [
        {"instruction": text, "instruction_difficulty": i} for i, text in enumerate(prompts)
    ]
    rng = np.random.default_rng(0)
    gamed = pd.DataFrame(
        {
            "index": range(60),
            "instruction_difficulty": rng.normal(size=60),
            "preference": rng.random(60),
            "std_delta_len": rng.normal(size=60),
            "not_gamed_baseline": 1.0,
        }
    )
    train = [{"question": "1+1?", "answer": "#### 2"}]
    made = {"questions": questions, "answers": answers, "difficulty": difficulty, "train": train}
    for name, rows in made.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    gamed.to_csv(folder / "gamed.csv")
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    session = Session(Store(tmp_path_factory.mktemp("store")))
    pipeline.run(load_run("tiny", BASE), session)
    return session


@pytest.fixture(scope="module")
def acted():
    """What was told of a run already: most settings are changed in one and the same."""
    return {}


@pytest.fixture
def act(before, acted, monkeypatch):
    """What the stages of a run are told, and what it publishes."""

    def resolve(name, revision=None):
        return ModelRef(path=str(before.store.root), digest=f"{name}@{revision}")

    def difficulties(source, gamed, path, prompts):
        return {prompt.id: gamed.by_index[i] for i, prompt in enumerate(prompts)}

    monkeypatch.setattr(sets, "check_template", lambda model: None)
    monkeypatch.setattr(resolving, "resolve", resolve)
    monkeypatch.setattr(recorded, "gamed_difficulties", difficulties)

    def told(cfg: RunConfig):
        if (key := (type(cfg), cfg.model_dump_json())) not in acted:
            session = Written(before)
            run = pipeline.run(cfg, session)
            acted[key] = session.told, functools.cache(lambda: published(run))
        return acted[key]

    return told


def published(run: pipeline.Run) -> list[tuple[str, str, float]]:
    return sorted((r.estimator, r.metric, r.value) for r in publish.rows(run, "s", "r"))


SETTINGS = leaves(RunConfig, load_run("tiny", BASE))


def test_the_settings_are_counted():
    transport = [name for name, (field, _) in SETTINGS.items() if is_transport(field)]
    sys.stdout.write(f"{len(SETTINGS)} settings, {len(transport)} of them transport\n")
    assert len(SETTINGS) > 100
    seeds = [name for name in SETTINGS if name.rsplit(".", 1)[-1] == "seed"]
    assert seeds == ["seed", "evaluation.harness.seed"], "one seed, and lm-eval's own of examples"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_changes_what_a_stage_is_told_or_is_transport(name, act, files):
    field, value = SETTINGS[name]
    if is_transport(field):
        return
    context = [*BASE, *(text.format(**files) for text in WITH.get(name, []))]
    new = another(name, field, value)
    if isinstance(new, str) and new.startswith("@"):
        new = files[new[1:]]
    changes = {name: new} | ALSO.get(name, {})
    changed = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    told, rows = act(load_run("tiny", context))
    then, rows_then = act(load_run("tiny", [*context, *changed]))
    assert told != then or rows() != rows_then(), f"{name} changes nothing"


def test_a_setting_that_does_nothing_is_caught(act):
    """Planted: the loop takes a field that it never hands on."""

    class Planted(RunConfig):
        nothing: int = 0

    tree = load_run("tiny", BASE).model_dump()
    one, two = (from_settings(Planted, {**tree, "nothing": n}, "test") for n in (0, 1))
    assert one.digest() != two.digest()
    (told, rows), (then, rows_then) = act(one), act(two)
    assert told == then
    assert rows() == rows_then()
    assert "nothing" in leaves(Planted, one)
