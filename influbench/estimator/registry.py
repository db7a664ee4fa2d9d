"""Names of estimators to classes, through the entry-point group ``influbench.estimators``.

Built-ins go through the same door as everybody else's packages. A name may carry options,
``adam_jvp(preconditioner=adam_after)``: a method then, wherever one is named, that stands beside
the plain one in a table.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from influbench.errors import UserError
from influbench.estimator import Estimator, Facts
from influbench.estimator.checking import blamed
from influbench.files import NOT_YAML, yaml_value

GROUP = "influbench.estimators"
TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
WITH_OPTIONS = re.compile(r"([^()]+)\((.+)\)", re.S)


@dataclass(frozen=True)
class Listing:
    """One registered method, as ``influbench estimators`` shows it."""

    name: str
    package: str
    target: str


def available() -> dict[str, Listing]:
    """All registered methods by name; nothing is imported.

    Raises:
        UserError: two packages claim one name.
    """
    return dict(_found(tuple(sys.path)))


@functools.cache  # a sweep asks a hundred times, and each look reads every installed package
def _found(path: tuple[str, ...]) -> dict[str, Listing]:  # noqa: ARG001
    found: dict[str, Listing] = {}
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else "?"
        listing = Listing(point.name, package, point.value)
        other = found.get(point.name)
        if other and other != listing:
            raise UserError(
                f"estimator '{point.name}' is claimed by two packages, {other.package} and "
                f"{package}: uninstall one of them, or use it as module:Class"
            )
        found[point.name] = listing
    return dict(sorted(found.items()))


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of ``name`` or ``name(option=value, other=[1, 2])``, values in YAML.

    Raises:
        UserError: what stands in the brackets is no options.
    """
    found = WITH_OPTIONS.fullmatch(text.strip())
    if found is None:
        return text, {}
    name, inside = found.groups()
    try:
        options = yaml_value("{" + re.sub(r"(?<![^\s,])(\w+)\s*=", r"\1: ", inside) + "}")
    except NOT_YAML as error:
        raise UserError(
            f"estimator '{text[:80]}': expected {name}(option=value, other=value), got "
            f"{inside[:80]!r}"
        ) from error
    alone = [o for o in options if not re.search(rf"\b{re.escape(str(o))}\s*=", inside)]
    if alone:
        raise UserError(f"estimator '{text}': expected option=value, got '{alone[0]}' alone")
    return name, {str(option): value for option, value in options.items()}


def load(name: str) -> type[Estimator]:
    """The class of a registered method, or of ``module:Class``; options in the name do not matter.

    Raises:
        UserError: no such method, or its module does not import.
    """
    name, _ = parse(name)
    target = name if ":" in name else None
    if target is None:
        methods = available()
        if name not in methods:
            close = difflib.get_close_matches(name, methods, n=3) or sorted(methods)
            raise UserError(
                f"no estimator named '{name}'; did you mean one of {close}? "
                "('influbench estimators' lists all; module:Class also works)"
            )
        target = methods[name].target
    if not TARGET.fullmatch(target):
        raise UserError(f"estimator '{name}': expected module:Class, got {target!r}")
    try:
        loaded = EntryPoint(name=name, value=target, group=GROUP).load()
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        raise UserError(
            f"estimator '{name}' ({target}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, type):
        raise UserError(
            f"estimator '{name}' ({target}): expected a class, got {type(loaded).__name__}"
        )
    missing = [part for part in ("facts", "prepare") if not hasattr(loaded, part)]
    if missing:
        raise UserError(f"estimator '{name}' ({target}) lacks {missing}: see docs/add-a-method.md")
    return loaded


def build(name: str, options: Mapping[str, Any] | None = None) -> Estimator:
    """The method with its options, which are checked against its own fields.

    Args:
        name: registered, or ``module:Class``; options in it stand below those of ``options``.
        options: by name of the field.

    Raises:
        UserError: unknown method, unknown option, a value of the wrong type, or no ``Facts``.
        MethodError: somebody else's method failed.
    """
    method = load(name)
    options = parse(name)[1] | dict(options or {})
    if not dataclasses.is_dataclass(method):
        raise UserError(f"estimator '{name}' must be a dataclass whose fields are its options")
    known = {f.name: f for f in dataclasses.fields(method) if f.init}
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=2) or sorted(known)
            raise UserError(
                f"estimator '{name}' has no option '{option}'; its options are {sorted(known)}"
                + (f", did you mean '{close[0]}'?" if known else "")
            )
    with blamed(method, name):
        try:
            # Validates against the annotations without asking authors to know pydantic.
            built = _checker(method).validate_python(options)
            facts = built.facts
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":  # the method's own words
                said = first["msg"].removeprefix("Value error, ")
                raise UserError(f"estimator '{name}': {said}") from error
            raise UserError(
                f"estimator '{name}', option '{'.'.join(map(str, first['loc']))}': {first['msg']}, "
                f"got {first.get('input')!r}"
            ) from error
    if not isinstance(facts, Facts):
        raise UserError(
            f"estimator '{name}': expected its facts to be Facts(...), got "
            f"{type(facts).__name__}: see docs/add-a-method.md"
        )
    return built


@functools.cache  # a run builds each of its methods several times
def _checker(method: type) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(method)
    except (NameError, PydanticUserError) as error:
        raise UserError(
            f"estimator {method.__module__}:{method.__qualname__}: expected options of plain types "
            f"(numbers, texts, tuples of them), got {str(error).partition('. ')[0]}"
        ) from error


def module_docstring(method: type) -> str:
    """The module docstring of a method: source, equation, deviations, cost."""
    return importlib.import_module(method.__module__).__doc__ or ""
