"""Judges: an OpenAI-compatible endpoint, a local model by log-probability, recorded judgements.

Every judge answers through the same archive, so a judgement is bought once and a rerun is free.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from influbench.errors import UserError
from influbench.judging.archive import IN_VAIN, Archive, request_key, total
from influbench.judging.protocol import (
    LOCAL,
    Backend,
    Judge,
    JudgeConfig,
    Judgement,
    Keep,
    Message,
    Reply,
    Request,
    Usage,
)
from influbench.judging.refusals import WITHHELD
from influbench.judging.written import without_thoughts
from influbench.store import Meter
from influbench.store.budget import Budget
from influbench.terminal.progress import Advance, Progress, SilentProgress

if TYPE_CHECKING:
    import torch

__all__ = [
    "Archive",
    "ArchivedJudge",
    "Budget",
    "Judge",
    "JudgeConfig",
    "Judgement",
    "Message",
    "Reply",
    "Request",
    "Usage",
    "booked",
    "build",
]

FILTERED = "were withheld by a content filter"
EMPTY = "were empty or held thoughts only, cut at the limit"
WRITTEN = "did not begin with a choice: their text counted, not its log-probabilities"


class ArchivedJudge:
    """Replies come from the archive where it has them, else from a backend."""

    def __init__(
        self,
        backend: Backend,
        archive: Archive,
        buyer: str = "",
        limit: int | None = None,
        thoughts: int = 0,
    ) -> None:
        """``limit`` is the judge's own limit of a reply: one cut shorter is another judgement.

        ``thoughts`` is the room that a reply has beside it.
        """
        self._backend = backend
        self._archive = archive
        self._buyer = buyer
        self._limit = limit
        self._thoughts = thoughts
        self._counts: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        """Replies by what the endpoint called the model that gave them."""
        self._lock = threading.Lock()
        self._advance: Advance | None = None
        self._progress: Progress = SilentProgress()
        self._title = ""
        self._told = False
        self._usage = archive.bought_by(buyer) if buyer else Usage()

    def shown(self, progress: Progress, title: str) -> ArchivedJudge:
        """The same judge, which from now on shows how far it is with what it is asked."""
        self._progress, self._title = progress, title
        return self

    @property
    def name(self) -> str:
        """Identifies the judge in results."""
        return self._backend.name

    @property
    def small(self) -> bool:
        """Too weak a model for its verdicts to mean anything."""
        return self._backend.small

    @property
    def note(self) -> str:
        """What a reader of its scores must know."""
        counted = [
            f"{self._counts[what]} of {self._counts['replies']} replies {what}"
            for what in (FILTERED, EMPTY, WRITTEN)
            if self._counts[what]
        ]
        if len(self._models) > 1:
            told = ", ".join(f"{name} ({n})" for name, n in self._models.most_common(5))
            counted.append(f"the endpoint answered as {len(self._models)} models: {told}")
        return "; ".join([*([self._backend.note] if self._backend.note else []), *counted])

    @property
    def grading(self) -> Literal["probability", "text"]:
        """How it grades on a scale."""
        return self._backend.grading

    @property
    def models(self) -> Sequence[torch.nn.Module]:
        """The networks that run in this process, whose passes the ledger counts."""
        return self._backend.models

    @property
    def usage(self) -> Usage:
        """Totals so far."""
        return self._usage

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order; equal requests are asked once."""
        self._archive.refresh()
        if self._archive.damaged and not self._told:
            self._told = True
            self._progress.note(
                f"{self._archive.path}: {self._archive.damaged} lines hold no judgement, left out"
            )
        requests = [self._limited(request) for request in requests]
        choosing = next((request for request in requests if request.choices), None)
        if choosing is not None:
            self._backend.recall(self._archive.judges(choosing))
        asked = ""
        # Again where the first replies told that the judge works in another way, by another name.
        while (missing := self._missing(requests)) and asked != self.name:
            asked = self.name
            with self._progress.task(f"{self._title}: judgements", len(missing)) as self._advance:
                self._backend.answer(missing, self._keep)
        found = [self._archive.get(request_key(self.name, request)) for request in requests]
        replies = [item.reply() for item in found if item is not None]
        assert len(replies) == len(requests), "a backend left a request unanswered"
        self._counts["replies"] += len(replies)
        self._models.update(item.answered_by for item in found if item and item.answered_by)
        self._counts[FILTERED] += sum(reply.text == WITHHELD for reply in replies)
        if "written verdicts" not in self._backend.note:  # which says it of all of them
            self._counts[WRITTEN] += sum(
                bool(request.choices and without_thoughts(reply.text))
                and reply.probabilities is None
                and reply.text != WITHHELD
                for request, reply in zip(requests, replies, strict=True)
            )
        self._counts[EMPTY] += sum(not without_thoughts(reply.text) for reply in replies)
        return replies

    def _limited(self, request: Request) -> Request:
        own = request.max_tokens if self._limit is None else min(request.max_tokens, self._limit)
        return dataclasses.replace(request, max_tokens=own + self._thoughts)

    def _missing(self, requests: Sequence[Request]) -> list[Request]:
        wanted = {request_key(self.name, request): request for request in requests}
        return [request for key, request in wanted.items() if self._archive.get(key) is None]

    def _keep(self, judgements: Sequence[Judgement]) -> None:
        self._archive.add([dataclasses.replace(item, buyer=self._buyer) for item in judgements])
        with self._lock:
            self._usage += total(judgements)
            if self._advance is not None:
                self._advance(sum(not item.key.startswith(IN_VAIN) for item in judgements))


class RecordedBackend:
    """Has nothing but the archive."""

    small = False
    note: str = "recorded judgements"
    models = ()
    grading: Literal["probability", "text"]

    def __init__(self, name: str, archive: Archive) -> None:
        self.name = name
        self.grading = "probability" if name.startswith(LOCAL) else "text"
        self._archive = archive

    def recall(self, known: Collection[str]) -> None:
        """Has one name."""

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:  # noqa: ARG002
        """Always an error: what is asked here is not in the archive."""
        raise UserError(
            f"judge '{self.name}' is recorded, and {len(requests)} of the judgements asked for "
            f"(first: {requests[0].id}) are not in {self._archive.path or 'its empty archive'}: "
            "give the archive that has them, or a judge of kind openai or local"
        )


def build(
    cfg: JudgeConfig,
    archive: Archive | Path | None = None,
    *,
    buyer: str = "",
    budget: Budget | None = None,
) -> ArchivedJudge:
    """The judge that the settings describe.

    Args:
        cfg: the settings.
        archive: where replies are kept (a path is opened); None = in memory, gone afterwards.
        buyer: who pays, e.g. the key of a stage's entry: ``usage`` then starts with what an
            earlier, killed attempt of the same buyer bought, so that the ledger misses nothing.
        budget: what one command may spend on judges; ``cfg.max_dollars`` holds for it too.

    Raises:
        UserError: the model, the address or the key is missing.
    """
    store = archive if isinstance(archive, Archive) else Archive(archive)
    limits = (cfg.max_tokens, cfg.thought_tokens)
    if cfg.kind == "recorded":
        return ArchivedJudge(RecordedBackend(cfg.model, store), store, buyer, *limits)
    if cfg.kind == "local":
        from influbench.judging.local import LocalBackend

        return ArchivedJudge(LocalBackend(cfg), store, buyer, *limits)
    from influbench.judging.openai_client import OpenAIBackend

    kind: type[OpenAIBackend] = OpenAIBackend
    if cfg.kind == "vllm":
        from influbench.judging.vllm import VllmBackend

        kind = VllmBackend
    budget = budget or Budget()
    budget.cap(cfg.max_dollars)
    if buyer:
        budget.spent += store.bought_by(buyer).money
    return ArchivedJudge(kind(cfg, budget), store, buyer, *limits)


def booked(meter: Meter) -> Usage:
    """What a stage's ledger says was bought so far, over all attempts."""
    rows = meter.rows()
    return Usage(
        calls=sum(row.api_calls for row in rows),
        prompt_tokens=sum(row.api_prompt_tokens for row in rows),
        completion_tokens=sum(row.api_completion_tokens for row in rows),
        money=sum(row.money for row in rows),
    )
