"""What it costs to take tokens from the chat template's rendering, against scoring with them.

    python -m benchmarks.tokenising [--student NAME] [--count 32]

Tokenising a whole conversation renders it three times and needs offsets; before, prompt and
response were tokenised apart. Both are timed on the same examples, and so are the forward passes of
``loss`` and the forward and backward passes of ``gradient_dot`` that the tokens are made for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from influbench import data, models
from influbench.data import DataConfig
from influbench.data.records import Example
from influbench.estimator import Context
from influbench.estimators.gradient_dot import GradientDot
from influbench.student import LanguageStudent, load_student


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--student", default="smollm2-135m-instruct")
    parser.add_argument("--count", type=int, default=32)
    args = parser.parse_args()
    student = load_student(models.resolve(args.student))
    examples = data.load_reference(DataConfig())[: args.count]
    student.encode(examples[0])  # the template is compiled once

    def whole() -> None:
        for example in examples:
            student.encode(example)

    def apart() -> None:
        for example in examples:
            prompt = models.chat_prompt(student.tokenizer, [("user", example.instruction)])
            student.tokenizer(prompt, add_special_tokens=False)
            student.tokenizer(example.response, add_special_tokens=False)

    def losses() -> None:
        with torch.no_grad():
            for batch in student.batches(examples):
                student.loss(batch)

    tokens = sum(len(student.encode(e).ids) for e in examples)
    print(f"{args.student}, {len(examples)} examples of {tokens / len(examples):.0f} tokens")
    ours = best(whole, 5)
    for name, seconds in (
        ("tokenised from the rendering", ours),
        ("prompt and response apart, as before", best(apart, 5)),
        ("loss of all", best(losses, 1)),
        ("gradient_dot of all", best(lambda: dots(student, examples), 1)),
    ):
        each = f"{seconds / len(examples) * 1e3:9.2f} ms each"
        print(f"{name:38}{each}{ours / seconds:9.2%}")


def dots(student: LanguageStudent, examples: Sequence[Example]) -> None:
    """Scores all, without the references' part."""
    scorer = GradientDot().prepare(
        Context(student=student, reference=examples[:2], warmup=(), scratch=Path(), seed=0)
    )
    scorer(examples)


def best(run: Callable[[], None], times: int) -> float:
    """Processor seconds of the fastest, which other jobs on the machine hardly move."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


if __name__ == "__main__":
    main()
