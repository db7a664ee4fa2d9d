"""Speed and truth of the exact influence, against the released algorithm and brute force.

    python -m benchmarks.oracle [--references 48] [--candidates 8] [--released 1] [--file F]
        [--profile | --adaptive]

Ours is timed on all candidates, the released algorithm on few (its cost a candidate does not depend
on the candidate, since all are padded to 1,024 tokens). Brute force is ``torch.optim.AdamW`` on a
deep copy of model and optimizer, references one at a time through the whole model. Everything runs
on SmolLM2-135M-Instruct in fp32, from the same weights and moments. ``--adaptive`` compares the
whole way to best-worst pairs (``benchmarks.pairs``), with candidates of the starter set's seed
pairs unless ``--alike`` names another file.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn import functional

from benchmarks import pairs, released_oracle
from influbench import data, models, testing
from influbench.data import DataConfig
from influbench.data.records import Example
from influbench.derivatives import gradients, step
from influbench.estimator import Context, Scores, as_scores
from influbench.estimators.exact import Exact
from influbench.student import LanguageStudent, StudentSettings, load_student

T = TypeVar("T")

LEARNING_RATE = 5e-6
WARMUP = 8


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--references", type=int, default=48)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--released", type=int, default=1, help="candidates of the slow algorithm")
    parser.add_argument("--file", default="starter", help="pairs: references, candidates, warm-up")
    parser.add_argument("--profile", action="store_true", help="operators of one reference pass")
    parser.add_argument("--adaptive", action="store_true", help="to pairs, by the racing oracle")
    parser.add_argument("--alike", help="file of the candidates of --adaptive")
    args = parser.parse_args()
    if args.adaptive:
        to_pairs(args)
        return
    pool = data.load_reference(DataConfig(reference=args.file))
    cuts = np.cumsum([args.references, args.candidates, WARMUP])
    assert len(pool) >= cuts[-1], f"expected {cuts[-1]} pairs, got {len(pool)}"
    references, candidates, warmup = (pool[i:j] for i, j in zip([0, *cuts], cuts, strict=False))
    student = smollm2(warmup)
    before = measured_peak()
    lengths = [len(student.encode(e).ids) for e in references]
    print(f"device: CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32")
    span = f"{min(lengths)}-{max(lengths)} tokens, mean {np.mean(lengths):.0f}"
    print(f"references: {len(lengths)} from {args.file}, {span}")
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(student, references, warmup, Path(folder), seed=0)
        scorer, prepare = timed(lambda: Exact(baseline="before").prepare(ctx))
        scores, total = timed(lambda: as_scores(scorer(candidates), len(candidates)))
        ours = total / len(candidates)
        truth, brute = timed(lambda: brute_force(student, references, candidates))
        theirs = released(student, references, candidates[: args.released], Path(folder))
    peak = max(before, measured_peak())
    achieved = flops(student, references, candidates) / total
    report_truth(scores, truth)
    print(f"ours: {ours:.2f} s a candidate ({prepare:.1f} s to prepare)")
    for part, seconds in breakdown(student, references, candidates[0]).items():
        print(f"    {part:<28}{seconds:8.2f} s")
    if args.profile:
        print(profile(student, references))
    print(f"brute force: {brute / len(candidates):.2f} s a candidate")
    slow = sum(theirs.values())
    print(f"released algorithm: {slow:.2f} s a candidate (mean of {args.released})")
    for part, seconds in theirs.items():
        print(f"    {part:<28}{seconds:8.2f} s")
    print(f"ratio released / ours: {slow / ours:.1f}")
    print(
        f"achieved {achieved / 1e9:.0f} GFLOP/s of {peak / 1e9:.0f} measured for a matrix product: "
        f"{achieved / peak:.2f}"
    )


def to_pairs(args: argparse.Namespace) -> None:
    """Runs ``--adaptive``."""
    references = data.load_reference(DataConfig(reference=args.file, num_reference=args.references))
    pool = data.load_examples(args.alike) if args.alike else data.load_starter("seed")
    warmup, candidates = pool[:WARMUP], pairs.grouped(pool[WARMUP : WARMUP + args.candidates])
    assert len(candidates) >= args.candidates - 3, f"expected more pairs, got {len(pool)}"
    student = smollm2(warmup)
    print(f"device: CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32")
    for name, rows in (("references", references), ("candidates", candidates)):
        lengths = [len(student.encode(e).ids) for e in rows]
        print(f"{name}: {len(lengths)}, mean {np.mean(lengths):.0f} tokens")
    with tempfile.TemporaryDirectory() as folder:
        pairs.compare(student, references, candidates, warmup, Path(folder), args.released)


def smollm2(warmup: Sequence[Example]) -> LanguageStudent:
    """SmolLM2-135M-Instruct after a few AdamW steps, examples cut at 1,024 tokens."""
    settings = StudentSettings(device="cpu", max_length=released_oracle.LENGTH)
    held = load_student(models.resolve("smollm2-135m-instruct"), settings)
    for group in held.optimizer.param_groups:
        group["lr"] = LEARNING_RATE
    testing.warmed(held, warmup, steps=len(warmup) // 2)
    return held


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What a function returns, and the seconds that it took."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def measured_peak(size: int = 2048, tries: int = 8) -> float:
    """Best rate of a square fp32 matrix product, FLOP/s."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(timed(lambda: left @ right)[1] for _ in range(tries))


def flops(
    student: LanguageStudent, references: Sequence[Example], candidates: Sequence[Example]
) -> float:
    """What scoring must compute: no padding, causal attention, logits of response tokens only."""

    def forward(example: Example) -> float:
        row = student.encode(example)
        config = student.model.config
        time, response = len(row.ids), len(row.learned)
        body = sum(p.numel() for n, p in student.model.named_parameters() if ".layers." in n)
        attention = 2 * config.num_hidden_layers * config.hidden_size * time  # half: causal
        return time * (2 * body + attention) + 2 * response * config.vocab_size * config.hidden_size

    return 3 * sum(map(forward, candidates)) + len(candidates) * sum(map(forward, references))


def brute_force(
    student: LanguageStudent, references: Sequence[Example], candidates: Sequence[Example]
) -> np.ndarray:
    """Influence of each candidate by a real optimizer step on a deep copy, shape [candidate]."""

    @torch.no_grad()
    def loss(held: LanguageStudent) -> float:
        losses = []
        for example in references:
            row = held.encode(example)
            logits = held.model(input_ids=torch.tensor([row.ids])).logits[0]
            targets = torch.tensor(row.ids[row.response_start :])
            losses.append(
                float(functional.cross_entropy(logits[row.response_start - 1 : -1], targets))
            )
        return float(np.mean(losses))

    before = loss(student)
    influence = []
    for example in candidates:
        held = copy.deepcopy(student)
        testing.loss_of_each(held, [example]).sum().backward()
        assert held.clip_norm is not None
        torch.nn.utils.clip_grad_norm_(held.model.parameters(), held.clip_norm)
        held.optimizer.step()
        influence.append(before - loss(held))
    return np.array(influence)


def released(
    student: LanguageStudent,
    references: Sequence[Example],
    candidates: Sequence[Example],
    folder: Path,
) -> dict[str, float]:
    """Mean seconds a candidate of the released algorithm, by part; leaves the student as it was."""
    released_oracle.save_checkpoint(student, folder)
    parts = {"checkpoint from disk": 0.0, "step, padded": 0.0, "references, padded": 0.0}
    for example in candidates:
        for part, function in zip(
            parts,
            (
                lambda: released_oracle.reload(student, folder),
                lambda e=example: released_oracle.step(student, e),
                lambda: released_oracle.reference_loss(student, references),
            ),
            strict=True,
        ):
            parts[part] += timed(function)[1] / len(candidates)
    released_oracle.reload(student, folder)
    return parts


def breakdown(
    student: LanguageStudent, references: Sequence[Example], example: Example
) -> dict[str, float]:
    """Seconds of one candidate's parts, ours."""
    trip = step.excursion(step.next_update(student))
    found, gradient = timed(lambda: gradients.gradient(student, trip.update.weights, example))
    began = time.perf_counter()
    with trip.stepped(found):
        update = time.perf_counter() - began
        _, losses = timed(lambda: gradients.losses(student, references))
        began = time.perf_counter()
    restore = time.perf_counter() - began
    return {"gradient": gradient, "update": update, "references": losses, "restore": restore}


def profile(student: LanguageStudent, references: Sequence[Example]) -> str:
    """Where one pass over the references spends its time, by operator, ours."""
    with torch.profiler.profile() as seen:
        gradients.losses(student, references)
    return seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12)


def report_truth(scores: Scores, truth: np.ndarray) -> None:
    """How far ours is from brute force."""
    worst = np.abs(scores.value - truth).max() / truth.std()
    print(
        f"against brute force over {len(truth)} candidates: Spearman "
        f"{spearmanr(scores.value, truth)[0]:.4f}, largest difference {worst:.1e} of the "
        "spread (standard deviation)"
    )


if __name__ == "__main__":
    main()
