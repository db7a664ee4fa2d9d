"""An OpenAI-compatible endpoint as judge: the official client inside our own limits.

Retries, deadlines and the spending cap are ours: the client's time limit is per read, which a
server that drips a byte a second never meets, and it does not know what a reply may cost.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from influbench import servers
from influbench.errors import UserError
from influbench.judging import endpoint as judge_endpoint
from influbench.judging import refusals
from influbench.judging.archive import judgement, request_key, spent_in_vain
from influbench.judging.bill import Bill
from influbench.judging.protocol import JudgeConfig, Judgement, Keep, Request
from influbench.judging.refusals import Way
from influbench.judging.written import without_thoughts
from influbench.store.budget import Budget

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

RETRIED, LONGEST_WAIT_S = {408, 409, 425, 429}, 60.0


class _AgainError(Exception):
    """A failure that may pass; ``wait`` is what the server asked for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class OpenAIBackend:
    """Asks an endpoint, ``concurrency`` requests at a time."""

    grading: Literal["probability", "text"] = "text"
    models = ()

    def __init__(self, cfg: JudgeConfig, budget: Budget) -> None:
        if find_spec("openai") is None:
            raise UserError(
                "a judge of kind 'openai' needs its client: pip install 'influbench[judge]'"
            )
        self._cfg = cfg
        self._budget = budget
        self._url = judge_endpoint.address(cfg)
        self._where = servers.public(self._url)
        self._key = judge_endpoint.key(cfg, self._url)
        self._way = Way(0 if cfg.logprobs == "never" else cfg.top_logprobs)
        self._token_limit = cfg.token_limit
        self._settled = False
        """Whether a reply has shown that the endpoint can be asked in this way."""
        self._doubt: UserError | None = None  # a refusal that did not say what it refuses
        self.small = cfg.small

    @property
    def name(self) -> str:
        """One name a way of judging: model, label, ``text`` or ``top5``, further parameters."""
        return refusals.name(self._cfg, self._way)

    @property
    def note(self) -> str:
        """How small it is, and in which way it judges where that is not the usual one."""
        return refusals.note(self._cfg, self._way)

    def recall(self, known: Collection[str]) -> None:
        """Goes on in the way in which the archive was filled, where this one has not begun yet."""
        if not self._settled and self._cfg.logprobs == "auto":
            self._way = refusals.recalled(self._cfg, known) or self._way

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
        import openai
        from openai import AsyncOpenAI

        queue = deque(requests)
        failures: list[UserError] = []

        async def one(client: AsyncOpenAI) -> None:
            try:
                keep([await self._persist(client, queue.popleft(), stopped, keep)])
            except UserError as error:
                failures.append(error)
                stopped.set()

        async def worker(client: AsyncOpenAI) -> None:
            while queue and not stopped.is_set():
                await one(client)

        async with AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",
            max_retries=0,
            # Half of it to get there: what never did is not billed.
            timeout=openai.Timeout(self._cfg.timeout_s, connect=self._cfg.timeout_s / 2),
        ) as client:
            # One at a time until a reply has shown how this endpoint can be asked.
            while queue and not self._settled and not failures:
                await one(client)
            await asyncio.gather(*(worker(client) for _ in range(self._cfg.concurrency)))
        if failures:
            raise failures[0]

    async def _persist(
        self, client: AsyncOpenAI, request: Request, stopped: threading.Event, keep: Keep
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
                return await self._within_budget(client, request, stopped, keep)
            except TimeoutError:
                why, asked = f"no complete answer within {self._cfg.timeout_s:g} s", 0.0
            except _AgainError as error:
                why, asked = str(error), error.wait or 0.0
        raise UserError(
            f"judge '{self.name}' at {self._where}: request '{request.id}' failed {attempts} times "
            f"in {time.monotonic() - started:.0f} s, last: {why}; all judgements so far are kept, "
            "run again to go on"
        )

    async def _within_budget(
        self, client: AsyncOpenAI, request: Request, stopped: threading.Event, keep: Keep
    ) -> Judgement:
        """One attempt; its price is kept whatever becomes of it."""
        most = judge_endpoint.highest_price(self._cfg, request)
        key = request_key(self.name, request)
        while not self._budget.reserve(key, most):
            if stopped.is_set() or not self._budget.waiting:
                raise UserError(
                    f"judge '{self.name}' stopped at its spending cap: ${self._budget.spent:.4f} "
                    f"of ${self._budget.limit} spent, and the next request may cost ${most:.4f}; "
                    "all judgements so far are kept, raise max_dollars to go on"
                )
            await asyncio.sleep(0.02)
        bill = Bill(most)
        found: Judgement | None = None
        try:
            async with asyncio.timeout(self._cfg.timeout_s):
                found = await self._attempt(client, request, bill)
            return found
        finally:
            self._budget.settle(key, bill.money)
            if found is None and bill.money:
                keep([spent_in_vain(self.name, bill)])

    async def _attempt(self, client: AsyncOpenAI, request: Request, bill: Bill) -> Judgement:
        import openai

        way = self._way if request.choices else Way(0)
        bill.may_be_owed()  # until the server says what it took
        try:
            raw = await client.chat.completions.with_raw_response.create(
                **judge_endpoint.parameters(self._cfg, request, way.top, self._token_limit)
            )
        except openai.APIStatusError as error:
            bill.is_nothing()
            if refusals.filtered(error.status_code, error.response.text):
                return judgement(self.name, request, text=refusals.WITHHELD)
            self._refused(request, error, way)
            return await self._attempt(client, request, bill)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if judge_endpoint.never_there(cause):
                bill.is_nothing()
            raise _AgainError(
                self._scrub(f"connection failed ({type(cause).__name__}: {cause})")
            ) from None
        judge_endpoint.settle(bill, self._cfg, raw.http_response.content)
        try:
            found = judge_endpoint.Completion.model_validate_json(raw.http_response.content)
        except ValidationError:
            why = "expected a chat completion with choices and usage, got "
            raise _AgainError(f"{why}{self._scrub(raw.http_response.text)[:80]!r}") from None
        if missing := judge_endpoint.uncounted(self._cfg, found.usage):
            raise UserError(  # the next reply would lack it too, and cost as much
                f"judge '{self.name}' at {self._where}: expected usage with {missing}, which have "
                "a price, got none; let the server count, or set their price to 0"
            )
        return self._judgement(request, found, way)

    def _refused(self, request: Request, error: APIStatusError, way: Way) -> None:
        """Raises what an error status means; returns where it can be asked in another way."""
        code = error.status_code
        said = self._scrub(" ".join(error.response.text.split()))[:200]
        variable = f"${self._cfg.key_variable or 'INFLUBENCH_JUDGE_KEY'}"
        advice = refusals.advice(code, said, model=self._cfg.model, variable=variable)
        refusal = UserError(
            f"judge '{self.name}' at {self._where} refused request '{request.id}': HTTP {code} "
            f"{said}; {advice}"
        )
        if "max_completion_tokens" in said and self._token_limit == "max_tokens":
            self._token_limit = "max_completion_tokens"
            return
        if way.top and way != self._way:  # another request has found out meanwhile
            return
        if way.top and (other := self._other(code, said, way)) is not None:
            self._doubt = None if refusals.about_log_probabilities(code, said) else refusal
            self._way, self._settled = other, False
            return
        passing = code in RETRIED or (code >= 500 and code != 501)
        if passing and "insufficient_quota" not in said:
            wait = servers.retry_after(error.response.headers)
            raise _AgainError(f"HTTP {code} {said}", wait) from None
        raise (self._doubt or refusal) from None

    def _other(self, code: int, said: str, way: Way) -> Way | None:
        """In which way a request that was refused may be asked again."""
        other = None
        if refusals.about_log_probabilities(code, said):
            other = refusals.instead(way, said)
        elif code in (400, 422) and not self._settled:
            other = Way(0)  # it may not say so: nothing is lost by trying
        allowed = other is not None and (other.top or self._cfg.logprobs == "auto")
        return other if allowed else None

    def _judgement(self, request: Request, found: judge_endpoint.Completion, way: Way) -> Judgement:
        said, tokens = found.choices[0], found.usage
        text = said.message.text()
        money = self._cfg.price(tokens.prompt_tokens, tokens.completion_tokens)
        cut = said.finish_reason == "length" and not without_thoughts(text)
        if cut and not self._settled:
            raise UserError(
                f"judge '{self.name}' at {self._where} was cut at our limit of "
                f"{request.max_tokens} tokens before it said anything, as reasoning models are: "
                "give its thoughts room with --set judge.thought_tokens=4096"
            )
        top = said.first_token() if way.top else None
        chances = judge_endpoint.top_probabilities(request.choices, top) if top else None
        thinks = without_thoughts(text) != text.strip()
        if said.finish_reason == "content_filter":
            text = refusals.WITHHELD
        elif way.top and (top is None or (thinks and chances is None)):
            way = self._without_log_probabilities(request)
        if text != refusals.WITHHELD and not cut:
            self._settled, self._doubt = True, None
        return judgement(
            refusals.name(self._cfg, way) if request.choices else self.name,
            request,
            text=self._scrub(text),
            top=top if way.top else None,
            probabilities=chances if way.top else None,
            tokens=(tokens.prompt_tokens, tokens.completion_tokens),
            money=money,
            answered_by=found.answered_by(),
        )

    def _without_log_probabilities(self, request: Request) -> Way:
        """The way on from a reply that has none."""
        if self._cfg.logprobs == "required":
            raise UserError(
                f"judge '{self.name}' at {self._where} gives no log-probabilities, which "
                "logprobs=required asks for: use logprobs=auto or another endpoint"
            )
        if self._settled and self._way.top:
            raise _AgainError(
                f"no log-probabilities for '{request.id}', though for others; two ways of judging "
                "are not mixed, --set judge.logprobs=never takes written verdicts for all"
            )
        self._way = Way(0)
        return self._way

    def _scrub(self, text: str) -> str:
        # "x" for a server that wants no key: no secret, and perhaps the verdict.
        return text.replace(self._key, "***") if len(self._key) >= 8 else text
