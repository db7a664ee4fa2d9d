"""The shape of the project, read from its source: layers, sizes, names, who may import torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "influbench"
FILES = sorted(PACKAGE.rglob("*.py"))
FIGURES = sorted((ROOT / "paper_figs").glob("*.py"))
ESTIMATORS = sorted((PACKAGE / "estimators").glob("*.py"))

LAYERS = [
    {"errors", "records", "config"},
    {"estimator", "registry"},
    {"judging", "losses", "meter", "models", "store", "student"},
    {"analysis", "data", "estimators", "evaluation", "generation", "preferences", "results"}
    | {"scoring", "testing", "training"},
    {"pipeline", "tables"},
    {"__main__"},
]
"""Imports only point to the same or an earlier layer. A module that is not named here is a part of
whoever imports it: what it reaches counts for them."""

WITHOUT_TORCH = {"config", "estimator", "records", "registry"} | {
    "analysis",
    "analysis.bootstrap",
    "analysis.comparison",
    "data",
    "judging",
    "meter",
    "analysis.planted",
    "preferences",
    "results",
    "analysis.score_files",
    "store",
    "tables",
}
"""Listing methods, drawing figures and reading results must not wait for torch."""
HEAVY = {"torch", "transformers", "trl", "peft"}
BANNED_NAMES = {"utils.py", "common.py", "helpers.py", "util.py", "misc.py"}


def name_of(path: Path) -> str:
    """Dotted name inside the package; ``""`` is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, inside_functions: bool = True) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules imported at run time, and the names taken from each."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, ()
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import on line {child.lineno}"
            yield child.module or "", tuple(alias.name for alias in child.names)
        elif is_type_checking(child):
            continue
        elif inside_functions or not isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            yield from imports(child, inside_functions)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it."""
    found = set()
    for module, names in imports(parsed(path)):
        if module.split(".")[0] != "influbench":
            continue
        inner = module.removeprefix("influbench").lstrip(".")
        for name in names or ("",):
            longer = f"{inner}.{name}".strip(".")
            found.add(longer if longer in MODULES else inner)
    return found


def foreign_imports(path: Path, inside_functions: bool = True) -> set[str]:
    """First parts of the modules that a file imports."""
    return {module.split(".")[0] for module, _ in imports(parsed(path), inside_functions)}


@cache
def reached(name: str) -> frozenset[str]:
    """All modules of this package that importing or running one may import, itself left out."""
    found: set[str] = set()
    queue = [name]
    while queue:
        for other in own_imports(MODULES[queue.pop()]) - found - {name}:
            found.add(other)
            queue.append(other)
    return frozenset(found)


def layer_of(name: str) -> int | None:
    for number, layer in enumerate(LAYERS):
        if name in layer or name.split(".")[0] in layer:
            return number
    return None


LAYERED = [name for name in MODULES if layer_of(name) is not None]


def test_every_layer_names_real_modules():
    assert set().union(*LAYERS) - {name.split(".")[0] for name in MODULES} == set()


@pytest.mark.parametrize("name", LAYERED)
def test_imports_point_to_earlier_layers(name):
    own = layer_of(name)
    assert own is not None
    later = {other for other in reached(name) if (layer_of(other) or 0) > own}
    assert not later, f"influbench.{name} (layer {own}) reaches later layers: {sorted(later)}"


def test_nothing_inside_imports_the_package_root():
    """``influbench/__init__.py`` gathers the public names: importing it from below is a cycle."""
    guilty = [name for name, path in MODULES.items() if name and "" in own_imports(path)]
    assert not guilty


def test_no_import_cycles():
    graph = {name: own_imports(path) for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", [*FILES, *FIGURES], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_hold_one_idea(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{lines} lines: two ideas in one file?"


def test_no_drawer_for_odds_and_ends():
    searched = [PACKAGE, ROOT / "tests", ROOT / "paper_figs", ROOT / "benchmarks"]
    found = [path for folder in searched for path in folder.rglob("*.py")]
    assert not [str(path) for path in found if path.name in BANNED_NAMES]


@pytest.mark.parametrize("path", ESTIMATORS, ids=lambda p: p.stem)
def test_estimators_import_torch_only_inside_functions(path):
    assert not foreign_imports(path, inside_functions=False) & HEAVY


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_figures_read_results_and_nothing_else(path):
    assert not foreign_imports(path) & HEAVY
    assert own_imports(path) <= {"results", "analysis", "errors"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"__main__"}))
def test_the_package_does_not_need_its_experiments_or_figures(name):
    assert not foreign_imports(MODULES[name]) & {"paper_figs", "experiments", "benchmarks", "tests"}


def test_light_modules_do_not_load_torch():
    """Checked by importing them: what a dependency of a dependency imports counts too."""
    names = [name for name in MODULES if name in WITHOUT_TORCH or name.startswith("estimators.")]
    names = [name for name in names if not name.startswith("estimators.parts.")]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module('influbench.' + name)\n"
        f"    loaded = set({sorted(HEAVY)!r}) & sys.modules.keys()\n"
        "    assert not loaded, f'influbench.{name} loads {sorted(loaded)}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sorted(names)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_listing_the_methods_does_not_load_torch():
    code = (
        "import sys\n"
        "from influbench import registry\n"
        "for name, listing in registry.available().items():\n"
        "    if listing.package == 'influbench':\n"
        "        registry.load(name)\n"
        f"assert not set({sorted(HEAVY)!r}) & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
