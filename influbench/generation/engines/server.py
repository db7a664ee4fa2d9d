"""An OpenAI-compatible completion server (vLLM, SGLang, llama.cpp).

Prompts go as token ids, so that the server reads what an engine in this process would; the ids
that it samples come back as ``token_ids`` (vLLM) or with the log-probabilities (llama.cpp). From a
server that gives neither ``Completion.ids`` is empty, and whoever trains on the text tokenises it.

Stop strings are sent to a server that says it is vLLM, which can leave them in the text. Others cut
them off without a word of which it was: there the row is written to its end and cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from influbench.errors import UserError
from influbench.generation.completion import Completion
from influbench.generation.engines.asking import Asking, Bill
from influbench.generation.settings import Sampling
from influbench.models import conversation
from influbench.servers import Counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class _Token(BaseModel):
    id: int | None = None


class _LogProbabilities(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _LogProbabilities | None = None


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Counted | None = None


@dataclass(frozen=True)
class Server(Asking):
    """A server that completes prompts."""

    tokenizer: PreTrainedTokenizerFast

    def one(
        self, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str], bill: Bill
    ) -> Completion:
        """See ``Asking``; the prompt goes as tokens."""
        tokens = self.tokenizer.encode(prompt, add_special_tokens=False)
        body: dict[str, Any] = {
            "model": self.cfg.server_model or self.listed.id or "teacher",
            "prompt": tokens,
            **self.rules(bill.name, seed, sampling),
            # What servers do unasked: no cut of the candidates but top_p.
            "top_k": 0,
            "min_p": 0.0,
        }
        if self._vllm:
            body |= {"return_token_ids": True, "repetition_penalty": sampling.repetition_penalty}
            body |= {"stop": list(stop), "include_stop_str_in_output": True} if stop else {}
            body |= {"stop_token_ids": sorted(self._ends)}  # beside those of the model's settings
        else:
            body |= {"logprobs": 1}  # which the ids come with
            body |= {"repeat_penalty": sampling.repetition_penalty, "repeat_last_n": 2**20}
            body |= {"cache_prompt": False}  # else a row depends on what was asked before
        what = f"a completion with choices for '{bill.name}'"
        reply = self.asked("/completions", body, _Reply, what, bill)
        self.counted(reply.usage)
        return self._completion(tuple(tokens), reply.choices[0], stop)

    @property
    def _vllm(self) -> bool:
        return self.listed.owned_by == "vllm"

    @cached_property
    def _ends(self) -> frozenset[int]:
        """Tokens that end a turn."""
        known: list[Any] = [self.tokenizer.eos_token_id, self.tokenizer.pad_token_id]
        own = [token for token in known if isinstance(token, int)]  # declared as lists, texts too
        return frozenset([*conversation.end_ids(self.tokenizer), *own])

    def _completion(
        self, prompt: tuple[int, ...], said: _Choice, stop: Sequence[str]
    ) -> Completion:
        listed = said.logprobs.content if said.logprobs else None
        told = said.token_ids or [token.id for token in listed or ()]
        # One that is missing would make another text of the others.
        ids = [] if None in told else [i for i in told if i is not None]
        self._refuse_strangers(ids)
        ends = self._ends
        written = list(ids)
        while written and written[-1] in ends:
            written.pop()
        cuts = [said.text.index(s) + len(s) for s in stop if s in said.text]
        finished = bool(cuts) or said.finish_reason == "stop"
        text = said.text[: min(cuts)] if cuts else said.text
        if cuts:
            written = self._until(written, stop)
        elif written and finished:
            eos: Any = self.tokenizer.eos_token_id
            written = [*written, ids[-1] if ids[-1] in ends else eos]
        return Completion(
            text=text,
            tokens=len(written) - (bool(written) and finished and not cuts),
            finished=finished,
            prompt_ids=prompt,
            ids=tuple(written),
        )

    def _refuse_strangers(self, ids: Sequence[int]) -> None:
        """What is trained on must be tokens of this model.

        Raises:
            UserError: the server has others.
        """
        size = len(self.tokenizer)
        if strange := [i for i in ids if not 0 <= i < size]:
            raise UserError(
                f"the completion server at {self.at}: expected token ids below {size}, the "
                f"teacher's vocabulary, got {strange[0]}: it has another model, start it on the "
                "teacher"
            )

    def _until(self, written: list[int], stop: Sequence[str]) -> list[int]:
        """The tokens up to the one that completes the first stop string."""
        for end in range(1, len(written) + 1):
            text = str(self.tokenizer.decode(written[:end]))
            if any(s in text for s in stop):
                return written[:end]
        return written
