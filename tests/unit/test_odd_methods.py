"""Plug-ins that break the contract: one line that names them, whatever they do and give back."""

import json
import sys

import numpy as np
import pytest
import torch
from command import influbench

from influbench.errors import MethodError, UserError
from influbench.estimator import Scores, as_scores, registry

THREE = np.zeros(3)
ODD_SCORES = {
    "two columns": np.zeros((3, 2)),
    "one": [0.0],
    "nan": [float("nan")] * 3,
    "texts": ["1", "2", "3"],
    "nones": [None] * 3,
    "nothing": None,
    "complex": THREE + 2j,
    "by name": {"a": 1.0},
    "lazy": (1.0 for _ in range(3)),
    "texts inside": Scores(value=np.array(["a"] * 3)),
    "one error more": Scores(value=THREE, stderr=np.zeros(4)),
    "nan errors": Scores(value=THREE, stderr=THREE * np.nan),
    "errors below 0": Scores(value=THREE, stderr=THREE - 1),
    "an item more": Scores(value=THREE, per_reference=np.zeros((4, 2))),
    "flat items": Scores(value=THREE, per_reference=np.zeros(3)),
    "nan items": Scores(value=THREE, per_reference=np.full((3, 2), np.nan)),
    "nan told": Scores(value=THREE, diagnostics={"a": np.nan}),
    "text told": Scores(value=THREE, diagnostics={"a": "b"}),  # pyright: ignore[reportArgumentType]
    "none told": Scores(value=THREE, diagnostics=None),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("odd", ODD_SCORES)
def test_what_is_no_number_a_candidate_is_refused(odd):
    with pytest.raises(ValueError, match=r"expected|could not convert"):
        as_scores(ODD_SCORES[odd], 3)


def test_numbers_of_any_kind_become_doubles_that_can_be_kept():
    told = Scores(
        value=[1, 2, 3],  # pyright: ignore[reportArgumentType]
        stderr=torch.ones(3),  # pyright: ignore[reportArgumentType]
        per_reference=np.ones((3, 2), dtype=np.float16),  # pyright: ignore[reportArgumentType]
        diagnostics={"a": np.float32(1), "n": 3},  # pyright: ignore[reportArgumentType]
    )
    found = as_scores(told, 3)
    assert found.stderr is not None
    assert found.per_reference is not None
    assert {a.dtype for a in (found.value, found.stderr, found.per_reference)} == {np.dtype("f8")}
    assert json.dumps(dict(found.diagnostics)) == '{"a": 1.0, "n": 3}'


METHODS = """
import dataclasses
from influbench.estimator import Facts
facts_ = Facts(scale="rank", source="nowhere")

def ones(self, ctx):
    return lambda examples: [1.0] * len(examples)

def made(name, facts=facts_, prepare=ones, **more):
    kind = type(name, (), {"facts": facts, "prepare": prepare, "__module__": __name__, **more})
    globals()[name] = dataclasses.dataclass(frozen=True)(kind)

made("Nan", prepare=lambda self, ctx: lambda examples: [float("nan")] * len(examples))
made("Leaves", prepare=lambda self, ctx: exit(3))
made("FactsOfAnotherKind", facts={"scale": "rank"})
made("FactsThatFail", facts=property(lambda self: 1 / 0))
made("Fails", __post_init__=lambda self: {}["boom"])
made("OfNoPlainType", x=None, __annotations__={"x": type(iter(()))})
made("Good")
good = Good()
class Plain:
    facts = facts_
    prepare = None
def function(): ...
function.facts = function.prepare = None
"""
MODULES = {"raises": "1 / 0", "leaves": "raise SystemExit(3)", "broken": "def (", "empty": ""}


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    for name, text in {"methods": METHODS, **MODULES}.items():
        (tmp_path / f"odd_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("methods", *MODULES):
        sys.modules.pop(f"odd_{name}", None)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("odd_raises:X", UserError, "cannot be imported: ZeroDivisionError"),
        ("odd_leaves:X", UserError, "cannot be imported: SystemExit: 3"),
        ("odd_broken:X", UserError, "cannot be imported: SyntaxError"),
        ("odd_empty:X", UserError, "has no attribute 'X'"),
        ("odd_methods:good", UserError, "expected a class, got Good"),
        ("odd_methods:function", UserError, "expected a class, got function"),
        ("odd_methods:Plain", UserError, "must be a dataclass"),
        ("odd_methods:FactsOfAnotherKind", UserError, "expected its facts to be Facts"),
        ("odd_methods:OfNoPlainType", UserError, "expected options of plain types"),
        ("odd_methods:FactsThatFail", MethodError, r"package odd_methods.*ZeroDivisionError"),
        ("odd_methods:Fails", MethodError, r"package odd_methods.*KeyError: 'boom'"),
        ("::", UserError, "expected module:Class, got '::'"),
        ("..:x", UserError, "expected module:Class"),
        ("a b:c", UserError, "expected module:Class"),
        ("a:b:c", UserError, "expected module:Class"),
    ],
)
def test_a_method_that_cannot_be_built_is_named(plugins, name, kind, said):
    with pytest.raises(kind, match=said) as caught:
        registry.build(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("Nan", "is nan: expected"), ("Leaves", "SystemExit")])
def test_a_method_that_fails_at_work_is_named_and_the_next_one_goes_on(
    plugins, tmp_path, name, said
):
    rows = [{"instruction": f"say {n}", "response": "so"} for n in range(3)]
    for file in ("candidates.jsonl", "reference.jsonl"):
        (tmp_path / file).write_text(
            "".join(json.dumps(r | {"id": file + r["instruction"]}) + "\n" for r in rows)
        )

    def score(method):
        return influbench(
            "score", "--student", "tiny", "--candidates", "candidates.jsonl", "--reference",
            "reference.jsonl", "--estimator", method, "--out", "out.jsonl", cwd=tmp_path,
        )  # fmt: skip

    done = score(f"odd_methods:{name}")
    assert done.returncode == 1
    assert f"estimator 'odd_methods:{name}' (package odd_methods) failed" in done.stderr
    assert said in done.stderr
    assert "bug of influbench" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert score("odd_methods:Good").returncode == 0
