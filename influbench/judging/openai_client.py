"""An OpenAI-compatible endpoint as judge: the official client inside our own limits.

Retries, deadlines and the spending cap are ours, since the client's time limit is per read (a
server that drips a byte a second would hang it) and it does not know what a reply may cost.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from influbench.errors import UserError
from influbench.files import digest
from influbench.judging import endpoint as judge_endpoint
from influbench.judging.archive import judgement, request_key
from influbench.judging.protocol import Budget, JudgeConfig, Judgement, Keep, Request

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

RETRIED = {408, 409, 425, 429}
LONGEST_WAIT_S = 60.0


class _AgainError(Exception):
    """An attempt that failed as the next one may not; ``wait`` is what the server asked for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class OpenAIBackend:
    """Asks an endpoint, ``concurrency`` requests at a time."""

    grading: Literal["probability", "text"] = "text"
    models = ()

    def __init__(self, cfg: JudgeConfig, budget: Budget) -> None:
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise UserError(
                "a judge of kind 'openai' needs its client: pip install 'influbench[judge]'"
            ) from error
        self._cfg = cfg
        self._budget = budget
        self._url = judge_endpoint.address(cfg)
        self._where = judge_endpoint.public(self._url)
        self._key = judge_endpoint.key(cfg, self._url)
        self._logprobs = cfg.logprobs != "never"
        marks = [cfg.label, "" if self._logprobs else "text"]
        marks += [digest(json.dumps(cfg.extra, sort_keys=True))[:8]] if cfg.extra else []
        self.name = ":".join([cfg.model, *(m for m in marks if m)])
        self.small = cfg.small
        self.note = "a judge this small exercises the plumbing only" if cfg.small else ""

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        """Asks all; after a failure nothing new is asked, and what is in flight is still kept."""
        stopped = threading.Event()
        # A thread of its own: the caller may be inside an event loop already (notebooks).
        with ThreadPoolExecutor(1, "judge") as pool:
            future = pool.submit(asyncio.run, self._answer(requests, keep, stopped))
            try:
                future.result()
            finally:
                stopped.set()

    async def _answer(
        self, requests: Sequence[Request], keep: Keep, stopped: threading.Event
    ) -> None:
        from openai import AsyncOpenAI

        queue = deque(requests)
        failures: list[UserError] = []

        async def worker(client: AsyncOpenAI) -> None:
            while queue and not stopped.is_set():
                request = queue.popleft()
                try:
                    keep([await self._within_budget(client, request, stopped)])
                except UserError as error:
                    failures.append(error)
                    stopped.set()

        async with AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=self._cfg.timeout_s,
        ) as client:
            await asyncio.gather(*(worker(client) for _ in range(self._cfg.concurrency)))
        if failures:
            raise failures[0]

    async def _within_budget(
        self, client: AsyncOpenAI, request: Request, stopped: threading.Event
    ) -> Judgement:
        # A token is at least a byte, so this can only be too high: the cap is never exceeded.
        most = self._cfg.price(
            sum(len(text.encode()) + 16 for _, text in request.messages), self._limit(request)
        )
        key = request_key(self.name, request)
        while not self._budget.reserve(key, most):
            if stopped.is_set() or not self._budget.waiting:
                raise UserError(
                    f"judge '{self.name}' stopped at its spending cap: ${self._budget.spent:.4f} "
                    f"of ${self._budget.limit} spent, and the next request may cost ${most:.4f}; "
                    "all judgements so far are kept, raise max_dollars to go on"
                )
            await asyncio.sleep(0.02)
        money = 0.0
        try:
            found = await self._persist(client, request, stopped)
            money = found.money
            return found
        finally:
            self._budget.settle(key, money)

    async def _persist(
        self, client: AsyncOpenAI, request: Request, stopped: threading.Event
    ) -> Judgement:
        """One judgement, over as many attempts as allowed."""
        jitter = random.Random(request_key(self.name, request))
        started = time.monotonic()
        attempts, why, asked = 0, "", 0.0
        while attempts <= self._cfg.max_retries and not (attempts and stopped.is_set()):
            if attempts:
                wait = min(self._cfg.backoff_s * 2 ** (attempts - 1), LONGEST_WAIT_S)
                wait *= 0.5 + jitter.random() / 2
                await asyncio.sleep(max(wait, min(asked, LONGEST_WAIT_S)))
            attempts += 1
            try:
                async with asyncio.timeout(self._cfg.timeout_s):
                    return await self._attempt(client, request)
            except TimeoutError:
                why, asked = f"no complete answer within {self._cfg.timeout_s:g} s", 0.0
            except _AgainError as error:
                why, asked = str(error), error.wait or 0.0
        raise UserError(
            f"judge '{self.name}' at {self._where}: request '{request.id}' failed {attempts} times "
            f"in {time.monotonic() - started:.0f} s, last: {why}; all judgements so far are kept, "
            "run again to go on"
        )

    async def _attempt(self, client: AsyncOpenAI, request: Request) -> Judgement:
        import openai

        with_logprobs = bool(request.choices) and self._logprobs
        try:
            raw = await client.chat.completions.with_raw_response.create(
                **self._parameters(request, with_logprobs)
            )
        except openai.APIStatusError as error:
            self._refused(request, error, with_logprobs)
            return await self._attempt(client, request)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _AgainError(
                self._scrub(f"connection failed ({type(cause).__name__}: {cause})")
            ) from None
        try:
            found = judge_endpoint.Completion.model_validate_json(raw.http_response.content)
            said = found.choices[0]
        except (ValidationError, IndexError):
            shown = self._scrub(raw.http_response.text)[:80]
            raise _AgainError(
                f"expected a chat completion with choices and usage, got {shown!r}"
            ) from None
        return self._judgement(request, said, found.usage, with_logprobs)

    def _refused(self, request: Request, error: APIStatusError, with_logprobs: bool) -> None:
        """Raises what an error status means; returns where log-probabilities alone were refused."""
        code = error.status_code
        said = self._scrub(" ".join(error.response.text.split()))[:200]
        if (code in RETRIED or code >= 500) and "insufficient_quota" not in said:
            wait = judge_endpoint.retry_after(error.response.headers)
            raise _AgainError(f"HTTP {code} {said}", wait) from None
        if with_logprobs and self._cfg.logprobs == "auto" and "logprobs" in said and code < 500:
            self._logprobs = False
            return
        variable = f"${self._cfg.key_variable or 'INFLUBENCH_JUDGE_KEY'}"
        advice = {
            401: f"check the key in {variable}",
            403: f"check the key in {variable} and what it may use",
            404: f"check the address and the model name '{self._cfg.model}'",
        }.get(code, "correct the judge's settings")
        raise UserError(
            f"judge '{self.name}' at {self._where} refused request '{request.id}': HTTP {code} "
            f"{said}; {advice}"
        ) from None

    def _limit(self, request: Request) -> int:
        return min(request.max_tokens, self._cfg.max_tokens)

    def _parameters(self, request: Request, with_logprobs: bool) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self._cfg.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "temperature": request.temperature,
            self._cfg.token_limit: self._limit(request),
            "extra_body": self._cfg.extra,
        }
        if with_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": self._cfg.top_logprobs}
        return parameters

    def _judgement(
        self,
        request: Request,
        said: judge_endpoint.Choice,
        tokens: judge_endpoint.Tokens,
        with_logprobs: bool,
    ) -> Judgement:
        top = said.first_token() if with_logprobs else None
        if request.choices and top is None and self._cfg.logprobs == "required":
            raise UserError(
                f"judge '{self.name}' at {self._where} gives no log-probabilities, which "
                "logprobs=required asks for: use logprobs=auto or another endpoint"
            )
        return judgement(
            self.name,
            request,
            text=self._scrub(said.message.content or ""),
            top=top,
            probabilities=judge_endpoint.top_probabilities(request.choices, top) if top else None,
            tokens=(tokens.prompt_tokens, tokens.completion_tokens),
            money=self._cfg.price(tokens.prompt_tokens, tokens.completion_tokens),
        )

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text
