"""The most resident memory that this process had in a stretch of time.

Exact where the kernel lets a process reset its own high-water mark (Linux,
``/proc/self/clear_refs``), elsewhere sampled every 50 ms. The mark is the process's: stretches that
overlap shorten each other.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil

RESET = Path("/proc/self/clear_refs")
SAMPLE_SECONDS = 0.05


class ResidentPeak:
    """Measures between ``start`` and ``stop``; can be used again."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._sampler: threading.Thread | None = None
        self._done = threading.Event()
        self._peak = 0

    def start(self) -> None:
        """Forgets earlier peaks."""
        try:
            RESET.write_text("5", encoding="ascii")
        except OSError:
            self._peak = 0
            self._done.clear()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()

    def stop(self) -> int:
        """The peak since ``start``, in bytes."""
        if self._sampler is not None:
            self._done.set()
            self._sampler.join()
            self._sampler = None
            return self._peak
        status = Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, self._process.memory_info().rss)
            if self._done.wait(SAMPLE_SECONDS):
                return
