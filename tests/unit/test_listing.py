"""The table of estimators on a narrow terminal, and the card of one."""

import dataclasses
import io
import sys
import types

import pytest
from rich.console import Console

from influbench.cli.listing import estimator_card, estimator_table
from influbench.errors import UserError
from influbench.estimator import registry
from influbench.estimator.registry import Listing
from influbench.estimators.gradient_dot import GradientDot


class Plugin(GradientDot):
    """A subclass that says nothing new."""


@dataclasses.dataclass(frozen=True)
class Strict:
    """A method that cannot be built without an option."""

    where: str
    facts = GradientDot.facts
    prepare = GradientDot.prepare


def printed(what, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text().splitlines()


def test_every_method_has_one_line_of_eighty_columns():
    methods = registry.available()
    lines = printed(estimator_table(methods, 80))
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert methods.keys() <= rows.keys()
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) <= len(methods) + 6
    assert not any("…" in line for line in lines)  # without its sources, which take more
    assert rows["name"].split() == ["name", "scale", "needs", "prepare", "each"]
    assert "TracIn, arXiv 2002.08484" in "\n".join(printed(estimator_table(methods, 120), 120))
    exact = rows["exact"].split()
    assert exact[:5] == ["exact", "nats", "moments", "2M", "M+3"]
    assert rows["length"].split()[:5] == ["length", "rank", "text", "0", "0"]
    assert "student" in rows["loss"]


def test_a_plug_in_of_any_kind_does_not_break_the_list(monkeypatch):
    module = types.ModuleType("foreign_methods")
    vars(module).update(Plugin=Plugin, Strict=Strict)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    targets = {"Plugin": "foreign_methods:Plugin", "Strict": "foreign_methods:Strict"}
    targets["Gone"] = "no_such_module:Gone"
    methods = {n: Listing(n, "influbench-foreign", target) for n, target in targets.items()}
    monkeypatch.setattr(registry, "available", lambda: methods)
    rows = {line.split()[0]: line for line in printed(estimator_table(methods, 80)) if line.strip()}
    assert rows["Plugin"].split() == ["Plugin", "signed", "grad", "3M", "3", "influbench-foreign"]
    assert "option 'where'" in rows["Strict"]
    assert "estimator 'Gone'" in rows["Gone"]


def test_the_card_tells_facts_options_with_their_help_and_the_equation():
    text = "\n".join(printed(estimator_card("exact"), 120))
    for part in (
        "influbench.estimators.exact:Exact",
        "gradients, moments, student",
        "2M to prepare, M+3 per candidate",
        "baseline = 'null'",
        "Clip the gradient as the training does; the released code does not.",
        "influence(z) = L_ref(θ + u(0)) - L_ref(θ + u(∇ℓ(z)))",
    ):
        assert part in text
    inherited = "\n".join(printed(estimator_card("llm2llm"), 120))
    assert "prefer = 'high'" in inherited
    with pytest.raises(UserError, match="no estimator named 'exakt'"):
        estimator_card("exakt")
