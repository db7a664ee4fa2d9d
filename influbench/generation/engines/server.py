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

from pydantic import BaseModel, Field, ValidationError

from influbench.errors import UserError
from influbench.generation.completion import Completion
from influbench.generation.engines.asking import Asking, Usage
from influbench.generation.settings import Sampling
from influbench.models import conversation

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
    usage: Usage = Usage()


@dataclass(frozen=True)
class Server(Asking):
    """A server that completes prompts."""

    tokenizer: PreTrainedTokenizerFast

    def one(
        self, name: str, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str]
    ) -> tuple[Completion, Usage]:
        """See ``Asking``; the prompt goes as tokens."""
        tokens = self.tokenizer.encode(prompt, add_special_tokens=False)
        body: dict[str, Any] = {
            "model": self.cfg.server_model or self.listed.get("id", "teacher"),
            "prompt": tokens,
            **self.rules(name, seed, sampling),
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
        try:
            reply = _Reply.model_validate(self.asked("/completions", body))
        except ValidationError as error:
            raise UserError(
                f"the completion server at {self.url}: expected a completion with choices for "
                f"'{name}', got something else ({error.error_count()} fields)"
            ) from error
        return self._completion(tuple(tokens), reply.choices[0], stop), reply.usage

    @property
    def _vllm(self) -> bool:
        return self.listed.get("owned_by") == "vllm"

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
        ids = said.token_ids or [t.id for t in listed or () if t.id is not None]
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

    def _until(self, written: list[int], stop: Sequence[str]) -> list[int]:
        """The tokens up to the one that completes the first stop string."""
        for end in range(1, len(written) + 1):
            text = str(self.tokenizer.decode(written[:end]))
            if any(s in text for s in stop):
                return written[:end]
        return written
