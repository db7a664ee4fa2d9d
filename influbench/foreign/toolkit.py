"""The file contract with toolkits that run in an environment of their own.

We write a folder: the student's weights, references, warm-up examples and candidates *as tokens*,
so that nobody tokenises differently. A worker script, run by the toolkit's own Python, answers with
``scores.npy`` and a ``meta.json`` that says whose scores these are, in which order, with which sign
and unit; all of it is checked here. The other side is ``workers/file_worker.py``.

    python -m influbench.foreign install kronfluence
    python -m influbench.foreign list

A worker counts its own passes, which come back with what it answers and go into the ledger as the
student's. Memory in the ledger is that of our process alone; the worker's peak is among the
diagnostics (``worker_peak_bytes``).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import Array, Context, Scorer, Scores
from influbench.foreign import environments

if TYPE_CHECKING:
    from influbench.student import LanguageStudent

WORKERS = Path(__file__).parent / "workers"
FORMAT = 3
SIGN = "positive lowers the reference loss"
GRACE_SECONDS = 10
"""How long a worker may take to end before it is killed."""


@dataclass(frozen=True)
class Worker:
    """How a toolkit is called."""

    method: str
    """The estimator's name, for messages."""
    toolkit: str
    version: str
    unit: str
    """What the worker must say its numbers are."""
    script: Path
    python: Path


def worker(method: str, toolkit: str, unit: str) -> Worker:
    """The worker of an installed toolkit.

    Raises:
        UserError: its environment is missing; the line says how to make it.
    """
    wanted = environments.toolkit(toolkit)
    python = environments.python(wanted, f"estimator '{method}'")
    script = WORKERS / f"{toolkit}_worker.py"
    return Worker(method, toolkit, wanted.version, unit, script, python)


def scorer(
    called: Worker,
    ctx: Context,
    options: Mapping[str, Any],
    *,
    min_share: float,
    warmup: Sequence[Example] = (),
) -> Scorer:
    """Prepares a worker that then scores for as long as the scorer is kept.

    Args:
        called: the worker.
        ctx: the student and the references.
        options: for the worker.
        min_share: of the parameters.
        warmup: the warm-up set, of a method that names it among its needs.

    Raises:
        UserError: the student does not fit the contract, the worker failed, broke the contract, or
            attributes a smaller share of the parameters than ``min_share``.
    """
    from influbench.models import adapter  # torch, which listing methods does without

    student = ctx.language_student()
    if student.compute != "float32" or any(p.dtype != _fp32() for p in student.model.parameters()):
        raise UserError(
            f"estimator '{called.method}' hands the student to another toolkit in fp32: "
            "set dtype and compute to float32"
        )
    if adapter.held_by(student.model):
        raise UserError(
            f"estimator '{called.method}' hands the student to another toolkit as a whole model, "
            "and it is an adapter: set student.adapter=merge"
        )
    folder = Path(tempfile.mkdtemp(prefix=f"{called.toolkit}-", dir=ctx.scratch))
    write_folder(folder, student, ctx, options, warmup)
    process = Process(called, folder)
    shutil.rmtree(folder / "model")  # the worker holds it now
    facts = _checked(called, json.loads((folder / "worker.json").read_text(encoding="utf-8")))
    _book(called, student, facts)
    share = ctx.share(float(facts["parameter_share"]), min_share)

    def score(examples: Sequence[Example]) -> Scores:
        values, meta = process.score(student, examples)
        _book(called, student, meta)
        return Scores(
            value=values,
            diagnostics={
                "parameter_share": share,
                "worker_peak_bytes": float(meta["peak_bytes"]),
                **facts.get("diagnostics", {}),
            },
        )

    return score


def write_folder(
    folder: Path,
    student: LanguageStudent,
    ctx: Context,
    options: Mapping[str, Any],
    warmup: Sequence[Example],
) -> None:
    """Writes all that a worker prepares from."""
    import torch

    from influbench import models

    models.save(student.model, student.tokenizer, folder / "model")
    write_rows(folder / "references.jsonl", student, ctx.reference)
    write_rows(folder / "warmup.jsonl", student, warmup)
    meta = {
        "format": FORMAT,
        "options": dict(options),
        "seed": ctx.seed,
        "trained": [n for n, p in student.model.named_parameters() if p.requires_grad],
        "pad": student.tokenizer.pad_token_id,
        "token_budget": student.token_budget,
        "device": student.model.device.type,
        "threads": torch.get_num_threads(),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def write_rows(path: Path, student: LanguageStudent, examples: Sequence[Example]) -> None:
    """Examples as tokens, one a line."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            row = student.encode(example)
            line = {"id": example.id, "ids": row.ids, "learned": row.learned}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


class Process:
    """A running worker; ends with this object, or with this process."""

    def __init__(self, called: Worker, folder: Path):
        self._called = called
        self._folder = folder
        self._jobs = 0
        self._log = (folder / "worker.log").open("wb")
        self._process = subprocess.Popen(
            # No site packages of the user, no PYTHON* variables: its own environment only.
            [str(called.python), "-E", "-s", str(called.script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environments.environment(),
            text=True,
        )
        self._end = weakref.finalize(self, _end, self._process, self._log)
        self._await("ready")

    def score(
        self, student: LanguageStudent, examples: Sequence[Example]
    ) -> tuple[Array, dict[str, Any]]:
        """Scores of the examples in their order, shape [example], and the worker's ``meta.json``.

        Raises:
            UserError: the worker failed or broke the contract.
        """
        name = f"job-{self._jobs:06d}"
        self._jobs += 1
        job = self._folder / name
        job.mkdir()
        write_rows(job / "candidates.jsonl", student, examples)
        self._tell(name)
        self._await(name)
        values, meta = read_scores(self._called, job, [example.id for example in examples])
        shutil.rmtree(job)
        return values, meta

    def close(self) -> None:
        """Ends the worker."""
        self._end()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: _await says of what
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _await(self, expected: str) -> None:
        assert self._process.stdout is not None
        got = self._process.stdout.readline().strip()
        if got == expected:
            return
        code = None
        if not got:  # it is ending: who ends it, if not we?
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(GRACE_SECONDS)
        self.close()
        log = self._folder / "worker.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")
        out_of_memory = "was killed, as by a system out of memory: run less beside it; last it said"
        end = out_of_memory if code == -signal.SIGKILL else "stopped"
        raise UserError(
            f"estimator '{self._called.method}': its {self._called.toolkit} worker {end} "
            f"({lines[-1][:300]}); its whole output is in {log}"
        )


def read_scores(called: Worker, job: Path, ids: Sequence[str]) -> tuple[Array, dict[str, Any]]:
    """What a worker wrote for a job, checked: order, sign, unit, shape, toolkit and version.

    Raises:
        UserError: it is not what the contract says.
    """
    meta = _checked(called, json.loads((job / "meta.json").read_text(encoding="utf-8")))
    if list(meta["ids"]) != list(ids):
        raise _broken(called, f"{len(ids)} candidates in their order", "other ids or order")
    values = np.load(job / "scores.npy", allow_pickle=False)
    if values.shape != (len(ids),) or values.dtype != np.float64:
        raise _broken(called, f"{len(ids)} float64 scores", f"{values.dtype} {values.shape}")
    return values, meta


def _checked(called: Worker, meta: dict[str, Any]) -> dict[str, Any]:
    wanted = {
        "format": FORMAT,
        "sign": SIGN,
        "unit": called.unit,
        "toolkit": called.toolkit,
        "version": called.version,
    }
    for key, value in wanted.items():
        if meta.get(key) != value:
            raise _broken(called, f"{key} = {value!r}", repr(meta.get(key)))
    return meta


def _book(called: Worker, student: LanguageStudent, meta: Mapping[str, Any]) -> None:
    """Reports a worker's passes to whoever counts the student's."""
    from influbench.store import passes

    told = meta.get("passes")
    if not isinstance(told, dict) or set(told) != {"forward", "backward", "positions"}:
        raise _broken(called, "its passes forward and backward, and their positions", repr(told))
    passes.reported(passes.backbone(student.model), **told)


def _broken(called: Worker, expected: str, got: str) -> UserError:
    return UserError(
        f"estimator '{called.method}': expected {expected} from {called.script.name}, got {got}: "
        f"use the worker and the {called.toolkit} {called.version} of this influbench"
    )


def _end(process: subprocess.Popen[str], log: IO[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    log.close()


def _fp32() -> Any:
    import torch

    return torch.float32
