"""What is installed with hashes is what was tested, and all that the project asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from influbench import errors

ROOT = Path(__file__).parents[2]


def pins(path):
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    asked = [Requirement(re.split(" --hash|#", line)[0]) for line in lines if re.match(r"\w", line)]
    return {canonicalize_name(own.name): own.specifier for own in asked}


def test_every_locked_package_has_a_hash_and_names_no_registry():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"\w", line)]
    assert len(lines) > 100
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", line) for line in lines)
    assert "://" not in text


def test_the_lock_has_the_tested_versions():
    locked, tested = pins(ROOT / "requirements.lock"), pins(ROOT / "constraints.txt")
    both = locked.keys() & tested.keys()
    assert {name: locked[name] for name in both} == {name: tested[name] for name in both}
    alone = locked.keys() - both
    outside = ("nvidia-", "cuda-", "triton")  # PyTorch's, for GPUs
    others = {name for name in alone if not name.startswith(outside)}
    assert others == {"httpx2-jsfetch", "setuptools", "tomlkit", "tzdata"}


def test_the_lock_has_all_that_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = pins(ROOT / "requirements.lock")
    extras = {n: own for n, own in project["optional-dependencies"].items() if n != "alpaca"}
    for line in [*project["dependencies"], *(line for own in extras.values() for line in own)]:
        asked = Requirement(line)
        if asked.name != "influbench":
            (pin,) = locked[canonicalize_name(asked.name)]
            assert asked.specifier.contains(pin.version), line


def test_who_only_scores_installs_nothing_of_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    for extra, lines in project["optional-dependencies"].items():
        own = {canonicalize_name(Requirement(line).name) for line in lines}
        assert not own & always, extra


def test_modules_of_an_extra_are_those_of_its_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    imported = {"scikit-learn": "sklearn", "traker": "trak"}
    for extra, modules in errors.EXTRAS.items():
        asked = [Requirement(line).name for line in project["optional-dependencies"][extra]]
        assert {imported.get(name, name.replace("-", "_")) for name in asked} == set(modules)
