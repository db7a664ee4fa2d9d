"""How the teacher writes: what a configuration says of it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from influbench.config import Config, seldom, transport
from influbench.generation.instructions import FilterConfig


class Sampling(Config):
    """How the next token is chosen, and how many there may be."""

    temperature: float = Field(default=1.0, ge=0, description="0 takes the likeliest token")
    top_p: float = Field(default=1.0, gt=0, le=1)
    presence_penalty: float = Field(
        default=0.0, description="taken once from a token written before"
    )
    frequency_penalty: float = Field(default=0.0, description="taken each time it was written")
    repetition_penalty: float = Field(
        default=1.0, gt=0, description="factor on tokens of prompt and output; 1 is none"
    )
    max_new_tokens: int = Field(default=1024, ge=1)


class ServerSettings(Config):
    """Where the server is, and how much is asked of it at once."""

    server_url: str | None = transport(
        None, "of a completion server that has the teacher, such as http://127.0.0.1:8000/v1"
    )
    server_model: str | None = seldom(None, "its name there; None = the first that is listed")
    server_concurrency: int = transport(16, "requests to the server at a time", ge=1)
    server_timeout_s: float = transport(600.0, "for one completion", gt=0)
    server_retries: int = transport(5, "of a request that a busy server refused", ge=0)
    server_key_variable: str | None = transport(None, "environment variable that holds the key")
    server_prompt_price: float = transport(0.0, "US dollars per million prompt tokens", ge=0)
    server_completion_price: float = transport(
        0.0, "US dollars per million completion tokens", ge=0
    )
    server_max_dollars: float | None = transport(
        None, "spending cap of the command; the lowest of this and judge.max_dollars holds", gt=0
    )

    @model_validator(mode="after")
    def _priced_cap(self) -> Self:
        if self.server_max_dollars is not None and not self.server_price(1, 1):
            raise ValueError(
                f"server_max_dollars={self.server_max_dollars} needs server_prompt_price and "
                "server_completion_price (US dollars per million tokens): without prices nothing "
                "can be capped"
            )
        return self

    def server_price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for so many tokens."""
        prompt, completion = self.server_prompt_price, self.server_completion_price
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6


class EngineSettings(ServerSettings):
    """What writes."""

    engine: Literal["hf", "server", "vllm"] = seldom(
        "hf",
        "what writes: Hugging Face here; a completion server that is running and has the model; "
        "vLLM, started on the model and ended (python -m influbench.foreign install vllm)",
    )
    vllm_arguments: tuple[str, ...] = seldom(
        (), "more arguments of vLLM's server, such as --max-model-len=2048"
    )
    vllm_start_s: float = transport(900.0, "in which vLLM must be ready", gt=0)


class GenerationSettings(EngineSettings):
    """How the teacher writes; the defaults are the paper's."""

    instructions_per_seed: int = Field(default=4, ge=1, description="siblings of a seed prompt")
    responses_per_instruction: int = seldom(
        1, "of the candidates, for dpo.target = response: they are siblings of each other", ge=1
    )
    num_shots: int = Field(default=8, ge=1, description="instructions shown in a prompt")
    num_own_shots: int = Field(
        default=2, ge=0, description="of those, how many the teacher wrote (once it has)"
    )
    instruction: Sampling = Sampling(
        temperature=1.0, top_p=0.9, presence_penalty=1.0, repetition_penalty=1.5
    )
    response: Sampling = Sampling(temperature=0.6, top_p=0.9, presence_penalty=1.0)
    rouge_l: float = Field(
        default=0.7, gt=0, le=1, description="more alike than this is a duplicate"
    )
    prefill: bool = Field(default=False, description="begin the teacher's turn with the tag")
    one_line: bool = Field(
        default=False, description="the instruction ends with its line; needs prefill"
    )
    accept_unclosed: bool = Field(
        default=False, description="take an instruction that is cut before its closing tag"
    )
    filters: FilterConfig = FilterConfig()
    max_seed_characters: int = Field(
        default=2000, ge=1, description="longer seed prompts are not shown"
    )
    attempts_per_candidate: int = Field(
        default=10, ge=1, description="give up after this many attempts a wanted pair"
    )
    prompts_per_chunk: int = Field(
        default=8, ge=1, description="prompts between two safe points; later ones see earlier ones"
    )
    batch_size: int = Field(default=32, ge=1, description="rows decoded at a time")
    response_request: str = Field(
        default="{instruction}",
        description="what the teacher is asked to respond to; the student sees the instruction "
        "alone, so that '{instruction} Answer in one sentence.' teaches it brevity",
    )
    unfinished: Literal["keep", "drop"] = Field(
        default="keep",
        description="responses that reach max_new_tokens: kept and learnt without an end of turn, "
        "or dropped; counted either way",
    )

    @model_validator(mode="after")
    def _one_line_needs_prefill(self) -> Self:
        if self.one_line and not self.prefill:
            raise ValueError("one_line needs prefill: without it the first line may be a preamble")
        return self

    @field_validator("response_request")
    @classmethod
    def _holds_the_instruction(cls, value: str) -> str:
        if "{instruction}" not in value:
            raise ValueError("expected a text with {instruction} in it")
        return value
