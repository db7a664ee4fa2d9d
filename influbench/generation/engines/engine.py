"""The contract of engines, and the one that is here: Hugging Face in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from influbench.generation.completion import Completion
from influbench.generation.settings import Sampling
from influbench.store.ledger import Phase

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from influbench.generation.recorded import Steps
    from influbench.models import LoadedModel


class Engine(Protocol):
    """Completes rendered prompts; each row has a seed of its own, made of (seed, id)."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's."""
        ...

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Those in this process, whose passes are counted."""
        ...

    def complete(
        self,
        prompts: Sequence[str],
        *,
        ids: Sequence[str],
        seed: int,
        sampling: Sampling,
        batch_size: int,
        stop: Sequence[str],
        phase: Phase,
    ) -> list[Completion]:
        """Completions in the order given; see ``sampling.complete``.

        Args:
            prompts: rendered text, special tokens included.
            ids: one a prompt.
            seed: of the stage.
            sampling: how tokens are chosen.
            batch_size: rows that are decoded at a time.
            stop: a row ends as soon as it has written one of these.
            phase: what requests to a server are booked to.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """Hugging Face, in this process."""

    loaded: LoadedModel
    steps: Steps | None = None
    """Its recorded decoding steps, on a GPU: they serve all calls."""

    @classmethod
    def of(cls, loaded: LoadedModel) -> InProcess:
        """An engine for a model that was loaded."""
        from influbench.generation.recorded import Steps

        return cls(loaded, Steps() if loaded.model.device.type == "cuda" else None)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's."""
        return self.loaded.tokenizer

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The model."""
        return [self.loaded.model]

    def complete(
        self,
        prompts: Sequence[str],
        *,
        ids: Sequence[str],
        seed: int,
        sampling: Sampling,
        batch_size: int,
        stop: Sequence[str],
        phase: Phase,  # noqa: ARG002
    ) -> list[Completion]:
        """See :class:`Engine`."""
        from influbench.generation.sampling import complete

        return complete(
            *self.loaded,
            prompts,
            ids=ids,
            seed=seed,
            sampling=sampling,
            batch_size=batch_size,
            stop=stop,
            steps=self.steps,
        )
