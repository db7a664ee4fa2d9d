"""Writes requirements.lock: ``make lock`` runs it beside uv, in an environment of its own."""

import re
import subprocess
import sys
from pathlib import Path

ROOT, LOCK = Path(__file__).parents[1], "requirements.lock"
EXTRAS = ("all", "cluster", "dattri", "dev", "judge-server", "slurm")
HEAD = """\
# The tested set (constraints.txt) with what it needs on every platform, and the hash of every file
# of it on PyPI. Not in it: the extra "alpaca" (other versions), the packaged models (--no-deps).
#   pip install --require-hashes -r requirements.lock && pip install --no-deps -e .
# Made by `make lock`.
"""
GIVEN = [part for extra in EXTRAS for part in ("--extra", extra)]
GIVEN += ["-c", "constraints.txt", "--universal", "--generate-hashes", "--no-strip-extras"]
GIVEN += ["--python-version", "3.11.5"]  # what a package of the documentation wants
GIVEN += ["--no-header", "--no-annotate", "--quiet", "-o", LOCK]

uv = Path(sys.executable).with_name("uv")
subprocess.run([uv, "pip", "compile", "pyproject.toml", *GIVEN], check=True, cwd=ROOT)
lines: list[str] = []
for pin in re.split(r"\n(?=\w)", (ROOT / LOCK).read_text(encoding="utf-8").strip()):
    bare = re.sub(r"^([\w.-]+)\[[^]]*\]", r"\1", pin)
    lines += [pin] if bare == pin else [bare, pin]  # pip wants a pin with and without extras
(ROOT / LOCK).write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
