"""Gradient dot products: ours against dattri-llm, kronfluence, bergson and a plain backward.

    python -m benchmarks.gradient_dot [--candidates 48] [--references 8] [--file F] [--rounds 1]
        [--only NAME NAME]

One run, one model (SmolLM2-135M-Instruct, fp32), the same candidates and references. Preparing (the
mean reference gradient) is timed apart. Agreement is with the materialised gradients: over all
parameters, and over the linear layers below the head, which is all that the other toolkits cover.
Peak memory is the resident memory of the process that scores, weights and mean gradient included.
With more rounds, methods take turns and each keeps its fastest: on a machine shared with others one
round may err by a fifth. Toolkits whose environment is not installed are named and left out.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from influbench import data, models
from influbench.data import DataConfig
from influbench.data.records import Example
from influbench.derivatives import gradients, step
from influbench.estimator import Array, Context, Estimator, Scorer, as_scores
from influbench.estimators.adam_jvp import AdamJvp
from influbench.estimators.bergson_dot import BergsonDot
from influbench.estimators.dattri_tracin import DattriTracin
from influbench.estimators.ekfac import Ekfac
from influbench.estimators.gradient_dot import GradientDot
from influbench.foreign import environments
from influbench.models.decoder import decoder_of
from influbench.store.peak_memory import ResidentPeak
from influbench.student import LanguageStudent, StudentSettings, load_student
from influbench.testing import loss_of_each

WARMUP = 4
SAME = 0.999
"""Spearman from which on two rankings count as the same."""
TARGET = 2.0


@dataclass(frozen=True)
class PlainBackward:
    """What one writes first: ``loss.backward()`` for each candidate, then the dot product."""

    def prepare(self, ctx: Context) -> Scorer:
        """The mean reference gradient, as everywhere."""
        student = ctx.student
        weights = step.next_update(student, needs_moments=False).weights
        mean = gradients.mean_gradient(student, weights, ctx.reference)

        def score(examples: Sequence[Example]) -> Array:
            values = np.empty(len(examples))
            for i, example in enumerate(examples):
                student.model.zero_grad(set_to_none=True)
                loss_of_each(student, [example]).sum().backward()
                pairs = [(w.grad, m) for w, m in zip(weights, mean, strict=True)]
                dots = [(g * m).sum() for g, m in pairs if g is not None]
                values[i] = float(torch.stack(dots).double().sum())
            student.model.zero_grad(set_to_none=True)
            return values

        return score


@dataclass(frozen=True)
class Row:
    """One method, as measured."""

    name: str
    ours: bool
    seconds: float
    prepare: float
    peak: float
    share: float
    rounded: bool
    """Whether matrix products are in bfloat16."""
    values: Array


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument("--file", default="starter", help="pairs: references and candidates")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of the table; all by default")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    args = parser.parse_args()
    pool = data.load_reference(DataConfig(reference=args.file))
    cuts = np.cumsum([args.references, args.candidates, WARMUP])
    assert len(pool) >= cuts[-1], f"expected {cuts[-1]} pairs, got {len(pool)}"
    references, candidates, warmup = (pool[i:j] for i, j in zip([0, *cuts], cuts, strict=False))
    student = load_student(models.resolve(args.model), StudentSettings(device="cpu"))
    lengths = [len(student.encode(e).ids) for e in candidates]
    print(f"{args.model}, CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        f"{len(candidates)} candidates of {min(lengths)}-{max(lengths)} tokens, {sum(lengths)} in "
        f"all; {len(references)} references; from {args.file}"
    )
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(student, references, warmup, Path(folder), seed=0)
        truth = materialised(student, references, candidates)
        best: dict[str, Row] = {}
        for _ in range(args.rounds):
            for name, ours, method, context in methods(ctx):
                if args.only and name not in args.only:
                    continue
                row = measured(name, ours, method, context, candidates)
                print(line(row, truth, len(candidates)), flush=True)
                best[name] = min(row, best.get(name, row), key=lambda r: r.seconds)
    verdict(list(best.values()), truth["all"], len(candidates))


def methods(ctx: Context) -> Iterator[tuple[str, bool, Estimator | PlainBackward, Context]]:
    """Name, whether it is ours, the method, and what it is given."""
    rounded = dataclasses.replace(ctx, student=_bfloat16(ctx.student))
    yield "gradient_dot", True, GradientDot(), ctx
    yield "adam_jvp, ghost", True, AdamJvp(method="ghost", preconditioner="none"), ctx
    yield "adam_jvp, jvp", True, AdamJvp(method="jvp", preconditioner="none"), ctx
    difference = AdamJvp(method="central_difference", preconditioner="none")
    yield "adam_jvp, central difference", True, difference, ctx
    yield (
        "adam_jvp, ghost, bf16 products",
        True,
        AdamJvp(method="ghost", preconditioner="none"),
        rounded,
    )
    yield "plain backward each", False, PlainBackward(), ctx
    if importlib.util.find_spec("dattri_llm") is None:
        print("dattri-llm: left out, not installed (extra 'dattri')")
    else:
        yield "dattri-llm TracIn", False, DattriTracin(), ctx
        yield "dattri-llm TracIn, bf16 products", False, DattriTracin(), rounded
    for toolkit, method in (("kronfluence", Ekfac(strategy="identity")), ("bergson", BergsonDot())):
        wanted = environments.toolkit(toolkit)
        if environments.installed(wanted):
            yield f"{toolkit} {wanted.version}", False, method, ctx
        else:
            print(f"{toolkit}: left out, not installed ({wanted.install_command})")


def _bfloat16(student: object) -> LanguageStudent:
    assert isinstance(student, LanguageStudent)
    return dataclasses.replace(student, compute="bfloat16")


def materialised(
    student: LanguageStudent, references: Sequence[Example], candidates: Sequence[Example]
) -> dict[str, Array]:
    """The dot products themselves, over all parameters and over linear layers below the head."""
    weights = step.next_update(student, needs_moments=False).weights
    inner = decoder_of(student.model).modules()
    linear = {id(p) for m in inner if type(m) is torch.nn.Linear for p in m.parameters()}
    chosen = np.array([id(w) in linear for w in weights])
    mean = gradients.mean_gradient(student, weights, references)
    parts = np.empty((len(candidates), len(weights)))
    for i, candidate in enumerate(candidates):
        gradient = gradients.gradient(student, weights, candidate)
        parts[i] = [gradients.dot([m], [g]) for m, g in zip(mean, gradient, strict=True)]
    return {"all": parts.sum(1), "linear": parts[:, chosen].sum(1)}


def measured(
    name: str,
    ours: bool,
    method: Estimator | PlainBackward,
    ctx: Context,
    candidates: Sequence[Example],
) -> Row:
    """Time and memory of one method on the candidates, after two that are not counted."""
    gc.collect()
    if sys.platform == "linux":  # what earlier methods have freed is not this one's
        ctypes.CDLL(None).malloc_trim(0)
    began = time.perf_counter()
    scorer = method.prepare(ctx)
    prepare = time.perf_counter() - began
    scorer(candidates[:2])
    peak = ResidentPeak()
    peak.start()
    began = time.perf_counter()
    scores = as_scores(scorer(candidates), len(candidates))
    seconds = time.perf_counter() - began
    here = peak.stop()
    facts = scores.diagnostics
    return Row(
        name=name,
        ours=ours,
        seconds=seconds,
        prepare=prepare,
        peak=facts.get("worker_peak_bytes", here),
        share=facts.get("parameter_share", 1.0),
        rounded=isinstance(ctx.student, LanguageStudent) and ctx.student.compute == "bfloat16",
        values=scores.value,
    )


def line(row: Row, truth: dict[str, Array], count: int) -> str:
    """One row of the table."""
    own = truth["all" if row.share == 1 else "linear"]
    error = np.abs(row.values - own).max() / own.std()
    return (
        f"{row.name:<32}{count / row.seconds:6.2f} candidates/s{row.prepare:7.1f} s to prepare"
        f"{row.peak / 1e9:7.2f} GB peak{row.share:7.1%} of the parameters; Spearman "
        f"{rank(row.values, truth['all']):.4f} with all, {rank(row.values, truth['linear']):.4f} "
        f"with linear layers; largest error {error:.0e} of the spread"
    )


def rank(left: Array, right: Array) -> float:
    """Spearman's correlation."""
    return float(np.corrcoef(rankdata(left), rankdata(right))[0, 1])


def verdict(rows: Sequence[Row], truth: Array, count: int) -> None:
    """Whether the target is met, and by which of our variants."""
    for row in rows:
        if not row.ours:
            continue
        # Like with like: rounding is no merit of a method in fp32.
        theirs = [other for other in rows if not other.ours and (row.rounded or not other.rounded)]
        if not theirs:
            continue
        fastest = min(theirs, key=lambda other: other.seconds)
        ratio = fastest.seconds / row.seconds
        same = rank(row.values, truth) >= SAME
        less = row.peak < fastest.peak
        met = "met" if same and less and ratio >= TARGET else "NOT met"
        print(
            f"{row.name}: {ratio:.2f}x the speed and {row.peak / fastest.peak:.2f}x the memory of "
            f"the fastest other ({fastest.name}, {count / fastest.seconds:.2f} candidates/s), "
            f"{'the same ranking as' if same else 'another ranking than'} the materialised dot: "
            f"target of {TARGET:g}x with less memory {met}"
        )


if __name__ == "__main__":
    main()
