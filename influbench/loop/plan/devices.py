"""Datasheets of devices that are not here: what a plan for another machine is made of.

Peaks are dense (no sparsity), from the makers' datasheets. No program reaches them: ``READS``,
``LEARNS`` and ``STREAMS`` are the shares that we count on, in the range that large trainings
report (40 % of peak, arXiv 2204.02311 §4.1, for 46 %); ``benchmarks.gpu`` measures them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from influbench.errors import UserError
from influbench.loop.plan.calibration import Pace, Speeds

READS, LEARNS, STREAMS = 0.45, 0.40, 0.60
"""Shares of the peak: passes forward, passes with gradients, memory traffic."""
LAUNCH_S = 6e-4
"""Seconds that the host needs for one Python-driven layer of a pass, whatever the device."""
TOGETHER = 1 << 15
"""Tokens of a pass, as ``student.budgets`` has them at most."""


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    name: str
    bf16: float
    """FLOP/s of dense matrix products."""
    tf32: float
    fp32: float
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    source: str


DEVICES = {
    d.name: d
    for d in (
        Device("A100", 312e12, 156e12, 19.5e12, 80e9, 2.039e12, "NVIDIA A100 80GB SXM datasheet"),
        Device("H100", 989e12, 494e12, 67e12, 80e9, 3.35e12, "NVIDIA H100 SXM datasheet"),
        Device("H200", 989e12, 494e12, 67e12, 141e9, 4.8e12, "NVIDIA H200 SXM datasheet"),
        Device("L40S", 362e12, 183e12, 91.6e12, 48e9, 0.864e12, "NVIDIA L40S datasheet"),
        Device("RTX4090", 165e12, 82.6e12, 82.6e12, 24e9, 1.008e12, "NVIDIA Ada whitepaper"),
    )
}


def parse(text: str) -> tuple[int, Device]:
    """How many of which device: ``8xH100``, ``H200``.

    Raises:
        UserError: no such device.
    """
    found = re.fullmatch(r"(?:(\d+)[xX])?([A-Za-z0-9]+)", text.strip())
    by_name = {name.lower(): device for name, device in DEVICES.items()}
    if not found or int(found[1] or 1) < 1 or found[2].lower() not in by_name:
        raise UserError(
            f"--devices {text}: expected NUMBERxDEVICE with one of {', '.join(DEVICES)}, such as "
            "8xH100"
        )
    return int(found[1] or 1), by_name[found[2].lower()]


def speeds(device: Device) -> Speeds:
    """What a plan counts on, from the datasheet."""
    reads, learns = (
        {
            "float32": Pace(0.0, share * device.fp32),
            "tf32": Pace(0.0, share * device.tf32),
            "bfloat16": Pace(0.0, share * device.bf16),
        }
        for share in (READS, LEARNS)
    )
    return Speeds(
        where=f"{device.name} ({device.source}; {READS:.0%} of peak forward, {LEARNS:.0%} with "
        f"gradients, {STREAMS:.0%} of bandwidth assumed)",
        read=reads,
        prompt=reads,
        learn=learns,
        train=learns,
        pair=learns,
        stream=dict.fromkeys(("float32", "bfloat16"), STREAMS * device.bandwidth),
        write={"float32": READS * device.fp32, "bfloat16": READS * device.bf16},
        update=STREAMS * device.bandwidth / 28,
        move=STREAMS * device.bandwidth / 56,
        load=2e9,
        opened=0.0,
        save=1e9,
        training=0.0,
        launch=LAUNCH_S,
        together=TOGETHER,
        alone=False,
        memory=device.memory,
    )
