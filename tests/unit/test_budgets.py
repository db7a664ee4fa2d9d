"""Tokens of a pass, measured on a GPU that is made up: how much it has, and what a pass takes."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from influbench.student import budgets
from influbench.student.losses import Encoded

WEIGHTS = 1000
CONSTANT = 4 * WEIGHTS
"""Bytes of a pass whatever its batch: the gradient."""
EACH = 100


@dataclass
class Card:
    """A GPU with so many bytes free, on which a pass takes ``CONSTANT`` and ``EACH`` a token."""

    free: int
    peak: int = 0
    passes: list[int] = field(default_factory=list)
    weights: list[torch.Tensor] = field(
        default_factory=lambda: [torch.ones(WEIGHTS, requires_grad=True)]
    )

    def loss(self, batch: Any) -> torch.Tensor:
        """As a student's."""
        tokens = sum(len(row.ids) for row in batch.rows)
        self.peak = CONSTANT + EACH * tokens
        if self.peak > self.free:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.passes.append(tokens)
        return self.weights[0].sum()[None]

    @property
    def student(self) -> Any:
        """A student that lies on it."""
        model = SimpleNamespace(device=torch.device("cuda"), parameters=lambda: self.weights)
        tokenizer = SimpleNamespace(pad_token_id=0)
        return SimpleNamespace(model=model, tokenizer=tokenizer, loss=self.loss, vocabulary=99)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card(free=2_000_000)
    answers = {
        "synchronize": lambda _: None,
        "reset_peak_memory_stats": lambda _: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda _: 0,
        "memory_reserved": lambda _: 0,
        "max_memory_allocated": lambda _: made.peak,
        "mem_get_info": lambda _: (made.free, 10 * made.free),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return made


def rows(length: int, count: int = 64) -> list[Encoded]:
    return [Encoded(tuple(range(length)), ((1, length),))] * count


def test_a_training_may_have_half_of_what_is_free_beside_moments_and_gradient(card: Card) -> None:
    kept = 3 * 4 * WEIGHTS
    found = budgets.of_training(card.student, rows(200), 32)
    assert found == (0.5 * (card.free - kept) - CONSTANT) // EACH
    card.free //= 2  # another has come
    assert budgets.of_training(card.student, rows(200), 32) < found / 2


def test_moments_of_an_adapter_are_counted_and_not_those_of_what_it_adapts(card: Card) -> None:
    before = budgets.of_training(card.student, rows(200), 32)
    card.weights += [torch.ones(100 * WEIGHTS)]
    assert budgets.of_training(card.student, rows(200), 32) == before


def test_a_training_has_no_more_tokens_a_pass_than_win_anything(card: Card) -> None:
    card.free *= 1000
    assert budgets.of_training(card.student, rows(1000), 32) == budgets.MOST_LEARNING


def test_batches_as_small_as_the_measurement_are_tried_whole(card: Card) -> None:
    assert budgets.of_training(card.student, rows(96), 32) == 32 * 96
    assert budgets.of_training(card.student, rows(1000, count=3), 32) == 3000
    assert card.passes == []
    budgets.of_training(card.student, rows(97), 32)
    assert card.passes == [1024, 3072]


def test_where_the_measurement_itself_does_not_fit_passes_are_small(card: Card) -> None:
    card.free = CONSTANT + 2000 * EACH
    assert budgets.of_training(card.student, rows(200), 32) == budgets.LEAST


def test_a_cpu_is_not_measured(card: Card) -> None:
    held = card.student
    held.model.device = torch.device("cpu")
    assert budgets.of_training(held, rows(1000), 32) == budgets.ON_A_CPU
    assert card.passes == []
