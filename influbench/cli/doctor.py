"""What works on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import version

import torch
from rich.table import Table

from influbench import models
from influbench.errors import EXTRAS, missing_of
from influbench.foreign import environments
from influbench.models import embedded
from influbench.servers import public
from influbench.terminal import cell


def doctor_table() -> Table:
    """One row a thing: its state, and what to do where it does not work."""
    table = Table(title="influbench doctor")
    for column in ("what", "state", "detail"):
        table.add_column(column, overflow="fold")
    for row in _rows():
        table.add_row(*map(cell, row))
    return table


def _rows() -> list[tuple[str, str, str]]:
    rows = [
        ("python", "ok", platform.python_version()),
        ("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("device", models.device_of("auto"), _device()),
        ("transformers", "ok", version("transformers")),
    ]
    if importlib.util.find_spec("torchvision") is not None:
        rows.append(
            (
                "torchvision",
                "installed",
                "not needed; a build for another torch breaks transformers",
            )
        )
    rows += [(f"model {name}", state, detail) for name, state, detail in embedded.embedded_status()]
    for extra in EXTRAS:
        missing = ", ".join(missing_of(extra))
        advice = f"{missing}: pip install -c constraints.txt 'influbench[{extra}]'"
        state, advice = ("absent", advice) if missing else ("ok", "")
        rows.append((f"extra {extra}", state, advice))
    for name, toolkit in environments.TOOLKITS.items():
        there = environments.installed(toolkit)
        state, advice = ("ok", "") if there else ("absent", toolkit.install_command)
        rows.append((f"toolkit {name}", state, advice))
    url = os.environ.get("INFLUBENCH_JUDGE_URL") or os.environ.get("OPENAI_BASE_URL")
    key = any(os.environ.get(name) for name in ("INFLUBENCH_JUDGE_KEY", "OPENAI_API_KEY"))
    rows.append(
        (
            "judge endpoint",
            "set" if url or key else "not set",
            public(url) if url else "INFLUBENCH_JUDGE_URL names one",
        )
    )
    rows.append(
        ("judge key", "set" if key else "not set", "" if key else "INFLUBENCH_JUDGE_KEY holds it")
    )
    return rows


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
