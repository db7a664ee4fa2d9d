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
PAGE = sorted((PACKAGE / "report" / "page" / "files").iterdir())
FIGURES = sorted((ROOT / "paper_figs").glob("*.py"))
ESTIMATORS = sorted((PACKAGE / "estimators").glob("*.py"))

ORDER = (
    "errors", "files", "servers", "config", "data", "terminal", "estimator", "statistics",
    "store", "models", "foreign", "judging", "results", "student", "derivatives", "estimators",
    "executors", "generation", "training", "scoring", "evaluation", "testing", "loop", "studies",
    "report", "cli", "__main__",
)  # fmt: skip
"""Every package and module in the root, each importing only from those before it."""

WITHOUT_TORCH = {
    "config",
    "estimator",
    "estimator.granting",
    "estimator.registry",
    "loop.preferences",
    "errors",
} | {
    "data",
    "files",
    "judging",
    "loop.plan",
    "loop.plan.lengths",
    "loop.plan.paper",
    "loop.pipeline",
    "loop.publish",
    "loop.reading",
    "loop.settings",
    "report",
    "report.comparison",
    "report.page",
    "report.page.content",
    "report.page.render",
    "results",
    "statistics",
    "store",
    "studies.grid",
    "studies.kinds.loop",
    "studies.planted",
}
"""Listing methods, pricing a run, drawing figures, reading results and a run whose stages are all
there must not wait for torch."""
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


def root_of(name: str) -> str:
    return name.split(".")[0]


def upward(name: str, imported: set[str]) -> set[str]:
    """Those of ``imported`` that stand later in the order than the module ``name``.

    Raises:
        ValueError: a package that the order does not know.
    """
    own = ORDER.index(root_of(name))
    return {other for other in imported if other and ORDER.index(root_of(other)) > own}


def test_the_order_knows_every_package():
    roots = {root_of(name) for name in MODULES if name}
    assert roots == set(ORDER), "put a new package into ORDER where it belongs"
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {""}))
def test_imports_point_downwards(name):
    later = upward(name, own_imports(MODULES[name]))
    assert not later, f"influbench.{name} imports from later packages: {sorted(later)}"


def test_a_planted_upward_import_is_caught():
    assert upward("store.chunks", {"data.records", "loop.pipeline"}) == {"loop.pipeline"}


def test_a_package_unknown_to_the_order_is_caught():
    with pytest.raises(ValueError, match="not in"):
        upward("helpers.things", {"data.records"})


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


@pytest.mark.parametrize("path", [*FILES, *PAGE, *FIGURES], ids=lambda p: str(p.relative_to(ROOT)))
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
    assert {root_of(name) for name in own_imports(path)} <= {"results", "statistics", "errors"}


def test_a_planted_import_of_torch_in_a_figure_is_caught(tmp_path):
    planted = tmp_path / "fig_planted.py"
    planted.write_text("def draw(study, out):\n    from torch.nn import Linear\n")
    with pytest.raises(AssertionError):
        test_figures_read_results_and_nothing_else(planted)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"cli.runs"}))
def test_the_package_does_not_need_its_experiments_or_figures(name):
    assert not foreign_imports(MODULES[name]) & {"paper_figs", "experiments", "benchmarks", "tests"}


def test_light_modules_do_not_load_torch():
    """Checked by importing them: what a dependency of a dependency imports counts too."""
    names = [name for name in MODULES if name in WITHOUT_TORCH or name.startswith("estimators.")]
    names = [
        name for name in names if not name.startswith(("estimators.adaptive.", "estimators.trak."))
    ]
    done = imported(*sorted(f"influbench.{name}" for name in names))
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_planted_import_of_torch_is_caught(tmp_path, monkeypatch):
    (tmp_path / "innocent.py").write_text("import influbench.report.page\nimport planted\n")
    (tmp_path / "planted.py").write_text("import torch\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "innocent loads ['torch']" in imported("innocent").stderr


def imported(*names: str) -> subprocess.CompletedProcess[str]:
    """Imports modules in a process of its own, which fails at the first that loads torch."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = set({sorted(HEAVY)!r}) & sys.modules.keys()\n"
        "    assert not loaded, f'{name} loads {sorted(loaded)}'\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )


def test_listing_the_methods_does_not_load_torch():
    code = (
        "import sys\n"
        "from influbench.estimator import registry\n"
        "for name, listing in registry.available().items():\n"
        "    if listing.package == 'influbench':\n"
        "        registry.load(name)\n"
        f"assert not set({sorted(HEAVY)!r}) & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_pricing_a_run_does_not_load_torch():
    """All of the command: what its methods and data import counts too."""
    code = (
        "import sys\n"
        "from influbench.cli.main import app\n"
        "app(['plan', 'quickstart', '--devices', 'H100'], standalone_mode=False)\n"
        f"assert not set({sorted(HEAVY)!r}) & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
