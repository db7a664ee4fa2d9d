"""A model behind a chat endpoint: a stronger teacher, of which nothing but its replies comes back.

It renders its own template, so that a prompt is the user's turn as it stands and has no tokens
here. Stop strings are not sent, since a server cuts them off: the reply is cut after the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from influbench.generation.completion import Completion
from influbench.generation.engines.asking import Asking, Bill
from influbench.generation.settings import Sampling
from influbench.servers import Counted


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Counted | None = None


@dataclass(frozen=True)
class Endpoint(Asking):
    """A model that is asked turn by turn."""

    model: str
    """Its name there."""

    def one(
        self, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str], bill: Bill
    ) -> Completion:
        """See ``Asking``; the prompt is a user's turn."""
        body: dict[str, Any] = {
            "model": self.cfg.server_model or self.model,
            "messages": [{"role": "user", "content": prompt}],
            **self.rules(bill.name, seed, sampling),
        }
        what = f"a chat completion with choices for '{bill.name}'"
        reply = self.asked("/chat/completions", body, _Reply, what, bill)
        used = self.counted(reply.usage)
        said = reply.choices[0]
        text = said.message.content or ""  # a refusal has none
        cuts = [text.index(s) + len(s) for s in stop if s in text]
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            tokens=used.completion_tokens,
            finished=bool(cuts) or said.finish_reason == "stop",
            prompt_ids=(),
            ids=(),
        )
