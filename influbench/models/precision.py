"""The dtype of matrix products, as a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

CPU_FACTS, GPU = Path("/proc/cpuinfo"), Path("/dev/nvidiactl")


def on_this_machine(dtype: Any) -> Any:
    """``auto`` as the dtype whose matrix products are fast here: the configuration holds that.

    bfloat16 on an NVIDIA card and on a CPU with matrix units (AMX), float32 elsewhere: without such
    units a CPU takes several times as long in bfloat16.
    """
    if dtype != "auto":
        return dtype
    units = CPU_FACTS.is_file() and "amx_bf16" in CPU_FACTS.read_text(encoding="utf-8")
    return "bfloat16" if units or GPU.exists() else "float32"


OnThisMachine = BeforeValidator(on_this_machine)
Products = Annotated[Literal["float32", "bfloat16"], OnThisMachine]
"""Dtype of matrix products; ``auto`` is settled when the configuration is made."""
