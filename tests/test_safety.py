"""Nothing that is read can run: no code of a model's own, no pickle; found in the source.

What a data file, a model folder, a store or a hub holds is data. The calls that would turn it into
code are looked for by kind, in all that is shipped and all that is run from the repository.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("influbench", "paper_figs", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
"""Modules that make objects of what they read."""
ERRORS = {"UnpicklingError", "PicklingError"}
READERS = {"read_pickle", "unpickle", "load_pickle"}
RUNNERS = {"eval", "exec", "compile", "__import__"}
MUST = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}
LOADERS = {"from_pretrained", "from_config"}
PEFT = {"PeftModel", "PeftConfig"}
"""Their loaders take a model that is loaded already, and read numbers and strings only."""
KNOWN = {
    # A Trainer's arguments, by an unpickler that knows no class (tests/cases/test_checkpoints.py).
    ("influbench/student/training_args.py", "pickle"),
    # Digits, signs and brackets of a method's own facts, checked by a pattern before.
    ("influbench/estimator/passes.py", "eval"),
}
YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
SAFE = {"SafeLoader", "CSafeLoader", "_Tolerant", "_Once"}
"""PyYAML's own, and ours that are made of them."""


def dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def keywords(call: ast.Call) -> dict[str, str]:
    return {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}


def loads_untold(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Loaders of models, called or handed on, that are not told to run no code of the model's."""
    told: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and keywords(node).get("trust_remote_code") == "False":
            told |= {id(part) for part in (node.func, *node.args)}
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in PEFT:
            told.add(id(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in LOADERS and id(node) not in told:
            yield node.lineno, node.attr
        if not isinstance(node, ast.keyword) or node.arg != "trust_remote_code":
            continue
        if ast.unparse(node.value) != "False":
            yield node.value.lineno, "trust_remote_code"


def unpickles(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Imports and calls that make objects, or code, of what they read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            if {alias.name for alias in node.names} - ERRORS:
                yield node.lineno, str(node.module)
        elif isinstance(node, ast.Attribute):
            if dotted(node.value) in UNPICKLING and node.attr not in ERRORS:
                yield node.lineno, dotted(node.value)
            elif node.attr in READERS or dotted(node) in ("torch.hub.load", "torch.jit.load"):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            if found := names & (UNPICKLING - {"pickle"}):  # pickle for its errors
                yield node.lineno, min(found)


def reads_freely(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls of readers that are safe only when told so, and of what runs text."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if (name in MUST and keywords(node).get(MUST[name][0]) != MUST[name][1]) or name in RUNNERS:
            yield node.lineno, name
        elif name in YAML:
            loader = keywords(node).get("Loader", "")
            if loader.rpartition(".")[2] not in SAFE:
                yield node.lineno, name


KINDS = (loads_untold, unpickles, reads_freely)


def found_in(text: str) -> list[tuple[int, str]]:
    tree = ast.parse(text)
    return sorted({found for kind in KINDS for found in kind(tree)})


def test_nothing_that_is_read_can_run():
    found = {
        (str(path.relative_to(ROOT)), name): f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        for line, name in found_in(path.read_text(encoding="utf-8"))
    }
    assert [said for key, said in found.items() if key not in KNOWN] == []
    assert found.keys() >= KNOWN, "an exception that nothing needs any more: take it out"


@pytest.mark.parametrize(
    "planted",
    [
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=cfg.trust)",
        "functools.partial(kind.from_pretrained, name)",
        "read = AutoTokenizer.from_pretrained",
        "AutoModel.from_config(config)",
        "simple_evaluate(model, trust_remote_code=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path)",
        "import pickle\npickle.load(file)",
        "import pickle\nread = pickle.loads",
        "from pickle import load",
        "import joblib",
        "from cloudpickle import loads",
        "pd.read_pickle(path)",
        "torch.hub.load(repo, name)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_a_planted_call_is_caught(planted):
    assert found_in(planted)


@pytest.mark.parametrize(
    "harmless",
    [
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
        "functools.partial(kind.from_pretrained, name, trust_remote_code=False)",
        "PeftModel.from_pretrained(model, folder)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass",
        "from pickle import UnpicklingError",
        "yaml.safe_load(text)",
        "model.eval()",
        "re.compile(text)",
    ],
)
def test_what_is_harmless_is_not(harmless):
    assert found_in(harmless) == []
