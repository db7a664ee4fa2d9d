"""The released algorithm of Montessori-Instruct for the influence of one example, written anew.

What ``collect_local_data_influence.py`` does on one worker (arXiv 2410.14208): for each example,
read weights and optimizer state from disk, one AdamW step without clipping on the example padded to
1,024 tokens, then the reference set in batches of 8, each padded to 1,024 tokens, whole logits and
the model's own loss, the mean over batches. In fp32 here, so that the algorithms are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from influbench.data.records import Example
from influbench.student import LanguageStudent
from influbench.student.losses import Encoded

LENGTH = 1024
BATCH = 8


def save_checkpoint(student: LanguageStudent, folder: Path) -> Path:
    """Weights and optimizer state, as ``accelerator.save_state`` leaves them: two files."""
    torch.save(student.model.state_dict(), folder / "model.pt")
    torch.save(student.optimizer.state_dict(), folder / "optimizer.pt")
    return folder


def reload(student: LanguageStudent, folder: Path) -> None:
    """Puts weights and moments back from disk."""
    student.model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    student.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))


def step(student: LanguageStudent, example: Example) -> None:
    """One optimizer step on one example."""
    student.optimizer.zero_grad()
    student.model(**_padded(student, [example])).loss.backward()
    student.optimizer.step()
    student.optimizer.zero_grad()


@torch.no_grad()
def reference_loss(student: LanguageStudent, references: Sequence[Example]) -> float:
    """Mean over batches of 8 of the batch's mean over tokens, nats."""
    means = [
        float(student.model(**_padded(student, references[i : i + BATCH])).loss)
        for i in range(0, len(references), BATCH)
    ]
    return sum(means) / len(means)


def _padded(student: LanguageStudent, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    rows = [student.encode(e) for e in examples]
    pad = student.tokenizer.pad_token_id
    filled = {
        "input_ids": [_fill(row.ids, pad) for row in rows],
        "attention_mask": [_fill((1,) * len(row.ids), 0) for row in rows],
        "labels": [_fill(_labels(row), -100) for row in rows],
    }
    return {k: torch.tensor(v, device=student.model.device) for k, v in filled.items()}


def _labels(row: Encoded) -> tuple[int, ...]:
    return (-100,) * row.response_start + row.ids[row.response_start :]


def _fill(row: tuple[int, ...], value: object) -> list[object]:
    return [*row, *[value] * (LENGTH - len(row))]
