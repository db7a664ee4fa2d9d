"""Loss and ``gradient_dot`` of every family of tiny models against plain transformers.

    python -m benchmarks.families [NAME ...]

Right is eager attention, one example at a time, on the chat template's own text, and autograd on
that loss. One line a family: the largest relative difference of the losses, alone and in batches
(packed where the family can be), and of the inner products of gradients, in units of the largest.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from influbench import models, testing
from influbench.data.records import Example
from influbench.errors import UserError
from influbench.estimator import Context, as_scores
from influbench.estimators.gradient_dot import GradientDot
from influbench.models import chat
from influbench.models.quiet import quiet
from influbench.student import load_student
from influbench.testing import families

CANDIDATES = testing.tiny_examples("candidate", 6)
REFERENCES = testing.tiny_examples("reference", 3)


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=[])
    names = parser.parse_args().names or list(families.FAMILIES)
    print(f"{'family':16}{'template':11}{'packed':8}{'alone':>9}{'batched':>9}{'gradients':>11}")
    worst = 0.0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                packed, numbers = compared(families.build(name, Path(folder)))
            except UserError as error:
                print(f"{name:16}refused: {error}")
                continue
        worst = max(worst, *numbers)
        style = families.FAMILIES[name].style
        shown = "".join(f"{n:{w}.0e}" for n, w in zip(numbers, (9, 9, 11), strict=True))
        print(f"{name:16}{style:11}{'yes' if packed else 'no':8}{shown}", flush=True)
    print(f"largest difference: {worst:.1e}")


def compared(folder: Path) -> tuple[bool, tuple[float, float, float]]:
    """Whether rows are packed; largest differences alone, batched and of gradients."""
    student = load_student(models.resolve(str(folder)))
    alone, together = np.empty(len(CANDIDATES)), np.empty(len(CANDIDATES))
    with torch.no_grad():
        for i, example in enumerate(CANDIDATES):
            alone[i] = float(student.loss(student.batches([example])[0])[0])
        for batch in student.batches(CANDIDATES):
            together[list(batch.positions)] = student.loss(batch).double().numpy()
    context = Context(
        student=student, reference=REFERENCES, warmup=(), scratch=folder / "scratch", seed=0
    )
    ours = as_scores(GradientDot().prepare(context)(CANDIDATES), len(CANDIDATES)).value
    losses, products = plain(folder)
    return student.packed, (
        float(np.abs(alone / losses - 1).max()),
        float(np.abs(together / losses - 1).max()),
        float(np.abs(ours - products).max() / np.abs(products).max()),
    )


def plain(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The candidates' losses and their gradients' products with the references' mean gradient."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Transformers writes today's date, we write the same on every day.
    tokenizer.chat_template = chat.template(tokenizer)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", trust_remote_code=False
        )
    model = model.float().eval()

    def gradient(examples: Sequence[Example]) -> tuple[list[float], torch.Tensor]:
        model.zero_grad()
        losses = [loss(model, tokenizer, e) for e in examples]
        torch.stack(losses).mean().backward()
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        return [x.item() for x in losses], torch.cat([g.flatten() for g in flat]).double()

    _, reference = gradient(REFERENCES)
    found = [gradient([e]) for e in CANDIDATES]
    losses = np.array([own[0] for own, _ in found])
    return losses, np.array([float(reference @ g) for _, g in found])


def loss(model: Any, tokenizer: Any, example: Example) -> torch.Tensor:
    """Of what the rendering has after the prompt, up to its end of turn."""
    turns = [{"role": role, "content": text} for role, text in example.turns]
    whole = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    if whole.endswith("<|end|>\n<|endoftext|>"):  # what stands behind an end of turn is not said
        whole = whole.removesuffix("\n<|endoftext|>")
    ids = tokenizer(whole, add_special_tokens=False).input_ids
    asked = tokenizer(prompt, add_special_tokens=False).input_ids
    start = next(
        (i for i, (a, b) in enumerate(zip(ids, asked, strict=False)) if a != b), len(asked)
    )
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids[start:]))


if __name__ == "__main__":
    main()
