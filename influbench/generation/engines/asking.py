"""Requests to an OpenAI-compatible server: so many at a time, over as many attempts as allowed."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from influbench import servers
from influbench.errors import UserError
from influbench.files import digest
from influbench.generation.completion import Completion
from influbench.generation.settings import Sampling, ServerSettings
from influbench.servers import Counted
from influbench.store import Work
from influbench.store.budget import Budget
from influbench.store.ledger import Phase

if TYPE_CHECKING:
    from torch import nn

PASSING = {408, 425, 429, 500, 502, 503, 504}
"""What a server answers that is busy, or not ready yet."""
LONGEST_WAIT_S = 30.0


R = TypeVar("R", bound=BaseModel)


class _Model(BaseModel):
    id: str | None = None
    owned_by: Any = None


class _Models(BaseModel):
    data: list[_Model] | None = None


class _Stays(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the prompt would be lost on the way, and the key shown elsewhere."""

    def redirect_request(self, *_args: Any, **_named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stays)


def purse(cfg: ServerSettings, budget: Budget | None, work: Work) -> Budget:
    """What a stage may spend: the command's budget under the settings' cap.

    What killed attempts at the stage have paid is spent already.
    """
    found = budget or Budget()
    found.cap(cfg.server_max_dollars)
    found.spent += sum(row.money for row in work.meter.rows())
    return found


@dataclass(frozen=True)
class Asking(ABC):
    """Asks a server, so many requests at a time; all of a call are answered or it raises."""

    cfg: ServerSettings
    networks: Sequence[nn.Module] = field(default=(), kw_only=True)
    budget: Budget = field(default_factory=Budget, kw_only=True)
    """What the command may spend."""
    stopped: threading.Event = field(default_factory=threading.Event, kw_only=True)

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
            UserError: no server, one that refuses, an answer that is no completion, or a request
                that might cost more than the cap leaves.
        """
        self.stopped.clear()
        answered: list[Counted] = []

        def one(row: tuple[str, str]) -> Completion:
            try:
                completion, used = self._within_budget(*row, seed, sampling, stop)
            except BaseException:
                self.stopped.set()  # nothing new is asked
                raise
            answered.append(used)
            return completion

        # Back-pressure: no more than ``server_concurrency`` requests are under way.
        with ThreadPoolExecutor(self.cfg.server_concurrency, "engine") as pool:
            try:
                return list(pool.map(one, zip(ids, prompts, strict=True)))
            except BaseException:
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
            finally:  # what was answered is paid, whatever became of the others
                for used in answered:
                    sent, written = used.prompt_tokens, used.completion_tokens
                    phase.add_api(1, sent, written, self.cfg.server_price(sent, written))

    def _within_budget(
        self, name: str, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str]
    ) -> tuple[Completion, Counted]:
        # A token is at least a byte, so this can only be too high: the cap is never exceeded.
        most = self.cfg.server_price(len(prompt.encode()) + 16, sampling.max_new_tokens)
        while not self.budget.reserve(name, most):
            if self.stopped.is_set() or not self.budget.waiting:
                raise UserError(
                    f"the server at {self.at} is not asked further: ${self.budget.spent:.4f} of "
                    f"${self.budget.limit} are spent, and the next request may cost ${most:.4f}; "
                    "what was written is kept, raise generation.server_max_dollars to go on"
                )
            time.sleep(0.02)
        money = 0.0
        try:
            completion, used = self.one(name, prompt, seed, sampling, stop)
            money = self.cfg.server_price(used.prompt_tokens, used.completion_tokens)
            return completion, used
        finally:
            self.budget.settle(name, money)

    @abstractmethod
    def one(
        self, name: str, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str]
    ) -> tuple[Completion, Counted]:
        """One completion; ``name`` is its id."""

    def rules(self, name: str, seed: int, sampling: Sampling) -> dict[str, Any]:
        """How tokens are chosen, as every such server is told it."""
        return {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": int(digest(f"{seed}:{name}")[:12], 16) % 2**31,
        }

    def counted(self, usage: Counted | None) -> Counted:
        """What the server counted; nothing where nothing is paid for it.

        Raises:
            UserError: it counts nothing and is paid by the token.
        """
        found, cfg = usage or Counted(), self.cfg
        if missing := found.uncounted(
            prompt_tokens=cfg.server_prompt_price, completion_tokens=cfg.server_completion_price
        ):
            raise UserError(
                f"the server at {self.at}: expected usage with {' and '.join(missing)} with each "
                "answer, since it has prices, got none: what it costs cannot be counted; let it "
                "count, or set server_prompt_price and server_completion_price to 0"
            )
        return found

    @cached_property
    def url(self) -> str:
        """Of the server."""
        if not self.cfg.server_url:
            raise UserError(
                "engine = server or teacher.kind = endpoint: expected server_url, such as "
                "http://127.0.0.1:8000/v1, got none"
            )
        return servers.checked_url(self.cfg.server_url, "server_url").rstrip("/")

    @property
    def at(self) -> str:
        """The address as it is shown, without a password."""
        return servers.public(self.url)

    @cached_property
    def listed(self) -> _Model:
        """What the server says of its first model."""
        models = self.asked("/models", None, _Models, "a list of models").data
        return models[0] if models else _Model()

    @cached_property
    def _headers(self) -> dict[str, str]:
        found = {"Content-Type": "application/json"}
        if variable := self.cfg.server_key_variable:
            if not os.environ.get(variable):
                raise UserError(f"expected the server's key in ${variable}, which is not set")
            key = servers.sent(os.environ[variable], variable)
            found["Authorization"] = f"Bearer {key}"
        return found

    def asked(self, path: str, body: dict[str, Any] | None, kind: type[R], what: str) -> R:
        """What the server answers, over as many attempts as allowed.

        Args:
            path: after its address.
            body: None = a question without one.
            kind: of the answer.
            what: that is, for people.

        Raises:
            UserError: no such answer came.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._headers)
        why, wait = "", 0.0
        for attempt in range(self.cfg.server_retries + 1):
            if attempt:
                self.stopped.wait(min(max(0.5 * 2 ** (attempt - 1), wait), LONGEST_WAIT_S))
            if self.stopped.is_set():
                break
            wait, answer = 0.0, b""
            try:
                answer = self._answered(request)
                return kind.model_validate_json(answer)
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code} {_said(error)}"
                told = {name.lower(): value for name, value in error.headers.items()}
                wait = servers.retry_after(told) or 0.0
                if error.code not in PASSING:
                    break
            except ValidationError as error:
                why = repr(answer[:80].decode(errors="replace"))
                if error.errors()[0]["type"] != "json_invalid":
                    break  # whole, and meant: asked again it would cost again
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = f"{type(error).__name__}: {error}"
        raise UserError(
            f"the completion server at {self.at}{path}: expected {what}, got {why or 'none'}; "
            "what was written is kept: start the server, run again to go on"
        )

    def _answered(self, request: urllib.request.Request) -> bytes:
        """All of an answer, in time: the library's own limit is one of each read."""
        until = time.monotonic() + self.cfg.server_timeout_s
        parts: list[bytes] = []
        with _OPENER.open(request, timeout=self.cfg.server_timeout_s) as response:
            while part := response.read1(1 << 16):
                parts.append(part)
                if time.monotonic() > until:
                    raise TimeoutError(f"no whole answer in {self.cfg.server_timeout_s:g} s")
        return b"".join(parts)


def _said(error: urllib.error.HTTPError) -> str:
    """The beginning of what a refusal says, as far as it comes."""
    try:
        return " ".join(error.read(500).decode(errors="replace").split())[:200]
    except (OSError, ValueError, http.client.HTTPException) as broken:
        return f"({type(broken).__name__})"
