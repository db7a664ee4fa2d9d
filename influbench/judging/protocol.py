"""What a judge is asked, what it replies, what it costs, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from influbench.config import Config, seldom, transport
from influbench.data import records
from influbench.models.precision import Products

if TYPE_CHECKING:
    import torch

Message = tuple[str, str]
"""Role (``system``, ``user``, ``assistant``) and content."""

LOCAL = "local:"
"""How the names of local judges begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question to a judge."""

    id: str
    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    """The answers to choose from, where the probability of each as the answer is wanted."""
    max_tokens: int = 512
    """Limit of the written reply; the judge's own limit holds too."""
    temperature: float = 0.0
    answers: tuple[str, ...] = ()
    """The texts being judged; the archive keeps their hash, to find judgements by answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the judge said."""

    text: str
    """Without surrounding whitespace; for a local judge of choices, the likeliest choice."""
    probabilities: tuple[float, ...] | None
    """One a choice, summing to 1; None where none was asked for or the judge offers none."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What was bought; replies from the archive cost nothing."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    """US dollars at the prices in the judge's settings."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            money=self.money + other.money,
        )

    def since(self, before: Usage) -> Usage:
        """What was bought after ``before``."""
        return Usage(
            calls=self.calls - before.calls,
            prompt_tokens=self.prompt_tokens - before.prompt_tokens,
            completion_tokens=self.completion_tokens - before.completion_tokens,
            money=self.money - before.money,
        )


class Judge(Protocol):
    """Answers requests; the same request is never paid for twice."""

    @property
    def name(self) -> str:
        """Identifies the judge in results: model, version and whatever changes its answers."""
        ...

    @property
    def small(self) -> bool:
        """Too weak a model for its verdicts to mean anything."""
        ...

    @property
    def note(self) -> str:
        """What a reader of its scores must know; empty where nothing."""
        ...

    @property
    def grading(self) -> Literal["probability", "text"]:
        """How it grades: expectation over the grades' probabilities, or a written verdict."""
        ...

    @property
    def usage(self) -> Usage:
        """Totals so far, with what an earlier, killed attempt of the same buyer bought."""
        ...

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order.

        Raises:
            UserError: the judge cannot be reached, refuses, or the spending cap is reached; all
                that was bought until then is in the archive.
        """
        ...


class JudgeConfig(Config):
    """Settings of a judge; of a key, only the name of the variable that holds it."""

    kind: Literal["local", "openai", "recorded", "vllm"] = "local"
    model: str = "smollm2-135m-instruct"
    """local, and vllm (started on it and asked as an endpoint): any model reference; openai: the
    endpoint's name for it; recorded: a judge's name."""
    revision: str | None = None
    label: str = ""
    """Tells apart endpoints that serve different models by one name."""
    dtype: Products = "float32"
    chat_template: str | None = None
    """For a local model without one: see ``models.load_tokenizer``."""
    device: str = transport("auto")
    batch_tokens: int = transport(4096, "prompt tokens in one forward pass of a local judge", gt=0)
    base_url: str | None = transport(
        None, "else $INFLUBENCH_JUDGE_URL, $OPENAI_BASE_URL, OpenAI's own"
    )
    key_variable: str | None = transport(None, "environment variable that holds the key")
    concurrency: int = transport(8, "requests in flight", gt=0)
    timeout_s: float = transport(120.0, "limit of one attempt, up to the last byte", gt=0)
    max_retries: int = transport(6, "attempts after the first", ge=0)
    backoff_s: float = transport(0.5, "first wait between attempts; doubles up to 60", ge=0)
    prompt_price: float = transport(0.0, "US dollars per million prompt tokens", ge=0)
    completion_price: float = transport(0.0, "US dollars per million completion tokens", ge=0)
    max_dollars: float | None = transport(None, "spending cap", gt=0)
    max_tokens: int = Field(default=2048, gt=0)
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of the reply; one that asks for the other gets it."""
    thought_tokens: int = Field(default=0, ge=0)
    """Room for a reasoning judge's thoughts, beside the limit of each reply."""
    logprobs: Literal["auto", "required", "never"] = "auto"
    """Whether log-probabilities are asked for where a request has choices."""
    top_logprobs: int = Field(default=20, ge=2, le=20)
    extra: dict[str, Any] = Field(default_factory=dict)
    """More parameters for the endpoint, sent as they are."""
    vllm_arguments: tuple[str, ...] = seldom(
        (), "more arguments of vLLM's server, such as --max-model-len=4096"
    )
    vllm_start_s: float = transport(900.0, "in which vLLM must be ready", gt=0)
    small: bool = transport(False, "declares an endpoint's model too weak to mean anything")

    @model_validator(mode="after")
    def _priced_cap(self) -> JudgeConfig:
        if self.max_dollars is not None and not (self.prompt_price or self.completion_price):
            raise ValueError(
                f"max_dollars={self.max_dollars} needs prompt_price and completion_price "
                "(US dollars per million tokens): without prices nothing can be capped"
            )
        return self

    def placed(self, device: str) -> JudgeConfig:
        """The same judge; it stands on ``device`` unless its own settings say where."""
        return self.model_copy(update={"device": device}) if self.device == "auto" else self

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for so many tokens."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One archived reply: what was asked (as hashes), of whom, how, what came back, its cost."""

    key: str
    judge: str
    prompt_hash: str
    answer_hash: str
    choices: tuple[str, ...]
    max_tokens: int
    temperature: float
    text: str
    """The raw reply."""
    top: dict[str, float] | None
    """Log-probabilities of the first token, as the endpoint gave them."""
    probabilities: tuple[float, ...] | None
    prompt_tokens: int
    completion_tokens: int
    money: float
    buyer: str = ""
    """Who paid, e.g. the key of a stage's entry."""
    answered_by: str = records.seldom("")
    """What the endpoint called the model that answered; empty where it did not say."""

    def reply(self) -> Reply:
        """What the asker gets to see."""
        return Reply(
            text=self.text.strip(),
            probabilities=self.probabilities,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )


Keep = Callable[[Sequence[Judgement]], None]


class Backend(Protocol):
    """Where replies come from; hands every reply to ``keep`` as soon as it has it."""

    small: bool
    grading: Literal["probability", "text"]

    @property
    def name(self) -> str:
        """One name a way of judging."""
        ...

    @property
    def note(self) -> str:
        """What a reader of its scores must know; empty where nothing."""
        ...

    @property
    def models(self) -> Sequence[torch.nn.Module]:
        """The networks that run in this process."""
        ...

    def recall(self, known: Collection[str]) -> None:
        """Takes up one of its names that the archive knows already, where it has several."""
        ...

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        """Answers all requests or raises a UserError; what came before the error is kept.

        A backend that finds out how it can be asked may change its name on the way.
        """
        ...
