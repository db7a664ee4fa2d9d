"""All that influbench claims of a GPU, measured on one in minutes, without a network.

    python -m benchmarks.gpu [--out FOLDER] [--seconds 360] [--only PART ...] [--toy]

Each part has a limit of its own, and groups of them a process: an error, a crash or a part that
takes too long is one line, and the others go on. Rows are printed and appended to ``gpu.jsonl`` as
they come; a table follows last, and ``gpu.json`` beside it. ``--toy`` runs everything on a CPU at
toy sizes, which tests the script. Bringing it to a bare machine: ``benchmarks/gpu/MACHINE.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from benchmarks.gpu.rows import OutOfTimeError, Recorder, described, line, read

GRACE = 8.0
"""Seconds between a part's limit and its end by force."""

IMPORTS = 60.0
"""Seconds that a process may take before its first part."""

GROUPS: tuple[dict[str, float], ...] = (
    {"machine": 30.0, "1.1B step": 55.0, "1.1B bf16": 120.0, "agreement": 60.0},
    {"8B bf16 offloaded": 120.0},
    {
        "135M bf16": 50.0,
        "1.1B tf32": 40.0,
        "135M fp32": 30.0,
        "generation": 30.0,
        "training": 60.0,
        "loop": 60.0,
    },
)
"""Seconds of each part, by the process that runs it; what matters most comes first."""


def main() -> None:
    """Runs the parts one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_benchmark")))
    parser.add_argument("--seconds", type=float, default=360.0, help="for all parts together")
    parser.add_argument("--only", nargs="*", default=(), help="names of parts")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--here", action="store_true", help="in this process, without limits")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu.jsonl"
    if args.here:
        for name in args.only:
            _part(name, file, toy=args.toy)
        return
    file.unlink(missing_ok=True)
    end = time.monotonic() + args.seconds
    for group in GROUPS:
        wanted = {n: s for n, s in group.items() if not args.only or n in args.only}
        while wanted:
            if end - time.monotonic() < GRACE:
                Recorder(file, next(iter(wanted)))("not run", None, "", "no time left")
                wanted.pop(next(iter(wanted)))
                continue
            # A part that brings its process down costs the others of its group another start.
            wanted = _apart(wanted, file, end, toy=args.toy)
    rows = read(file)
    (args.out / "gpu.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(f"\n{len(rows)} rows, {args.seconds - (end - time.monotonic()):.0f} s")
    for row in rows:
        print(line(row))


def _apart(parts: dict[str, float], file: Path, end: float, *, toy: bool) -> dict[str, float]:
    """Runs parts in one process; those that it did not come to."""
    limits = json.dumps(parts)
    command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--out", str(file.parent)]
    command += [*(["--toy"] if toy else []), "--only", *parts]
    before = len(read(file))
    env = {**os.environ, LIMITS: limits, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=env)
    current, since, code = next(iter(parts)), time.monotonic() + IMPORTS, None
    while code is None:
        try:
            code = process.wait(0.5)
        except subprocess.TimeoutExpired:
            begun = [row.part for row in read(file)[before:]]
            if begun and begun[-1] != current:
                current, since = begun[-1], time.monotonic()
            elif begun and since > time.monotonic():
                since = time.monotonic()
            now = time.monotonic()
            if now > min(since + parts[current], end) + GRACE:
                process.kill()
                process.wait()
                code = -9
    if code:
        Recorder(file, current)("ended by force", None, "error", f"exit code {code}")
        names = list(parts)
        return {name: parts[name] for name in names[names.index(current) + 1 :]}
    return {}


LIMITS = "INFLUBENCH_PART_LIMITS"


def _part(name: str, file: Path, *, toy: bool) -> None:
    record = Recorder(file, name)
    record("begins", None)
    limit = json.loads(os.environ.get(LIMITS, "{}")).get(name, 3600.0)
    signal.signal(signal.SIGALRM, _out_of_time)
    try:
        from benchmarks.gpu import clock, parts

        record("imports", record.elapsed, "s")
        sizes = parts.TOY if toy else parts.REAL
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            parts.PARTS[name](sizes, record)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            clock.forget(sizes.device)
    except OutOfTimeError:
        record("stopped", None, "error", "the part had its time")
    except Exception as error:
        record("failed", None, "error", described(error))
    else:
        record("the whole part", record.elapsed, "s")


def _out_of_time(_: int, __: FrameType | None) -> None:
    raise OutOfTimeError


if __name__ == "__main__":
    main()
