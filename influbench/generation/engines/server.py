"""An OpenAI-compatible completion server (vLLM, SGLang, llama.cpp).

Prompts go as token ids, so that the server reads what an engine in this process would; the ids
that it samples come back as ``token_ids`` (vLLM) or with the log-probabilities (llama.cpp). From a
server that gives neither ``Completion.ids`` is empty, and whoever trains on the text tokenises it.

Stop strings are sent to a server that says it is vLLM, which can leave them in the text. Others cut
them off without a word of which it was: there the row is written to its end and cut here.
"""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from torch import nn
from transformers import PreTrainedTokenizerFast

from influbench.errors import UserError
from influbench.files import digest
from influbench.generation.sampling import Completion
from influbench.generation.settings import Sampling, ServerSettings
from influbench.models import conversation
from influbench.store.ledger import Phase

PASSING = {408, 425, 429, 500, 502, 503, 504}
"""What a server answers that is busy, or not ready yet."""
LONGEST_WAIT_S = 30.0


class _Token(BaseModel):
    id: int | None = None


class _LogProbabilities(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _LogProbabilities | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage = _Usage()


@dataclass(frozen=True)
class Server:
    """Asks a server, so many requests at a time; all of a call are answered or it raises."""

    cfg: ServerSettings
    tokenizer: PreTrainedTokenizerFast
    networks: Sequence[nn.Module] = ()
    stopped: threading.Event = field(default_factory=threading.Event)

    def complete(
        self,
        prompts: Sequence[str],
        *,
        ids: Sequence[str],
        seed: int,
        sampling: Sampling,
        batch_size: int,  # noqa: ARG002  # the server's own affair
        stop: Sequence[str],
        phase: Phase,
    ) -> list[Completion]:
        """See ``Engine``.

        Raises:
            UserError: no server, one that refuses, or an answer that is no completion.
        """
        self.stopped.clear()

        def one(row: tuple[str, str]) -> tuple[Completion, _Usage]:
            try:
                return self._one(*row, seed, sampling, stop)
            except BaseException:
                self.stopped.set()  # nothing new is asked
                raise

        # Back-pressure: no more than ``server_concurrency`` requests are under way.
        with ThreadPoolExecutor(self.cfg.server_concurrency, "engine") as pool:
            try:
                found = list(pool.map(one, zip(ids, prompts, strict=True)))
            except BaseException:
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        for _, used in found:
            phase.add_api(1, used.prompt_tokens, used.completion_tokens)
        return [completion for completion, _ in found]

    @property
    def _url(self) -> str:
        if not self.cfg.server_url:
            raise UserError(
                "engine = server: expected server_url beside it, such as http://127.0.0.1:8000/v1, "
                "got none"
            )
        return self.cfg.server_url.rstrip("/")

    @cached_property
    def _listed(self) -> dict[str, Any]:
        """What the server says of its first model."""
        found = self._asked("/models", None)
        models = found.get("data") if isinstance(found, dict) else None
        return models[0] if models and isinstance(models[0], dict) else {}

    def _one(
        self, name: str, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str]
    ) -> tuple[Completion, _Usage]:
        tokens = self.tokenizer.encode(prompt, add_special_tokens=False)
        body: dict[str, Any] = {
            "model": self.cfg.server_model or self._listed.get("id", "teacher"),
            "prompt": tokens,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": int(digest(f"{seed}:{name}")[:12], 16) % 2**31,
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
            reply = _Reply.model_validate(self._asked("/completions", body))
        except ValidationError as error:
            raise UserError(
                f"the completion server at {self._url}: expected a completion with choices for "
                f"'{name}', got something else ({error.error_count()} fields)"
            ) from error
        return self._completion(tuple(tokens), reply.choices[0], stop), reply.usage

    @property
    def _vllm(self) -> bool:
        return self._listed.get("owned_by") == "vllm"

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

    def _asked(self, path: str, body: dict[str, Any] | None) -> Any:
        """What the server answers, over as many attempts as allowed."""
        data = None if body is None else json.dumps(body).encode()
        why = ""
        for attempt in range(self.cfg.server_retries + 1):
            if attempt:
                self.stopped.wait(min(0.5 * 2 ** (attempt - 1), LONGEST_WAIT_S))
            if self.stopped.is_set():
                break
            request = urllib.request.Request(
                self._url + path, data, {"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=self.cfg.server_timeout_s) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                said = " ".join(error.read(500).decode(errors="replace").split())[:200]
                why = f"HTTP {error.code} {said}"
                if error.code not in PASSING:
                    break
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the completion server at {self._url}{path}: expected an answer, got {why or 'none'}; "
            "what was written is kept: start the server, run again to go on"
        )
