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
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from influbench import servers
from influbench.errors import UserError
from influbench.files import digest
from influbench.generation.completion import Completion
from influbench.generation.engines.billing import Bill, uncounted
from influbench.generation.settings import Sampling, ServerSettings
from influbench.servers import Counted
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
        bills: list[Bill] = []

        def one(row: tuple[str, str]) -> Completion:
            name, prompt = row
            # A token is at least a byte, so this can only be too high: the cap is never exceeded.
            most = self.cfg.server_price(len(prompt.encode()) + 16, sampling.max_new_tokens)
            bills.append(bill := Bill(name, most, self.cfg, self.at, self.budget, self.stopped))
            try:
                return self.one(prompt, seed, sampling, stop, bill)
            except BaseException:
                self.stopped.set()  # nothing new is asked
                raise

        # Back-pressure: no more than ``server_concurrency`` requests are under way.
        with ThreadPoolExecutor(self.cfg.server_concurrency, "engine") as pool:
            try:
                return list(pool.map(one, zip(ids, prompts, strict=True)))
            except BaseException:
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
            finally:  # what was answered is paid, whatever became of the others
                for spent in [spent for bill in bills for spent in bill.spent]:
                    phase.add_api(1, *spent)

    @abstractmethod
    def one(
        self, prompt: str, seed: int, sampling: Sampling, stop: Sequence[str], bill: Bill
    ) -> Completion:
        """One completion; its id is the name on the bill."""

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
        found = usage or Counted()
        if missing := uncounted(self.cfg, found):
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

    def asked(
        self,
        path: str,
        body: dict[str, Any] | None,
        kind: type[R],
        what: str,
        bill: Bill | None = None,
    ) -> R:
        """What the server answers, over as many attempts as allowed.

        Args:
            path: after its address.
            body: None = a question without one.
            kind: of the answer.
            what: that is, for people.
            bill: what the attempts cost goes there; None = nothing.

        Raises:
            UserError: no such answer came, or the cap has no room for another attempt.
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
                with bill.attempt() if bill else nullcontext():
                    answer = self._paid(request, bill)
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

    def _paid(self, request: urllib.request.Request, bill: Bill | None) -> bytes:
        """All of an answer; what it cost is booked, whatever is in it."""
        try:
            answer = self._answered(request)
        except urllib.error.URLError:  # it never got there, or was refused: nobody bills that
            raise
        except BaseException:  # no answer in time, or half of one: it may be billed
            if bill:
                bill.book(None)
            raise
        if bill:
            bill.book(servers.usage(answer))
        return answer

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
