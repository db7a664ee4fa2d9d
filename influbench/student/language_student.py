"""The student: a language model, its optimizer state, and its per-example loss."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from influbench.data.records import Example
from influbench.errors import UserError
from influbench.models import conversation
from influbench.models.decoder import decoder_of
from influbench.student import fused, packing
from influbench.student.batch import TokenBatch, laid_out
from influbench.student.history import History
from influbench.student.losses import Encoded, mean_by_row, token_nll
from influbench.student.room import Room
from influbench.student.settings import Compute

SCALES = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
"""Factors on the logits, and their exponents: Cohere's, Falcon-H1's, Granite's."""


@dataclass(frozen=True)
class LanguageStudent:
    """A Hugging Face causal language model as a student (``estimator.Student``)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    optimizer: torch.optim.Optimizer
    clip_norm: float | None
    max_length: int
    """Longer examples are cut here if ``cut``, refused otherwise."""
    cut: bool
    token_budget: int
    """Padded tokens in one batch of passes without gradients."""
    compute: Compute = "float32"
    """Dtype of the matrix products; weights, updates and losses keep theirs."""
    pad_to: int = 0
    """Pad every batch to at least so many tokens, as the released code does; costs time only."""
    packed: bool = False
    """Rows may go through the model in one sequence (``packing``): they do without gradients."""
    learn: conversation.Learn = "all"
    """Which assistant turns of a conversation its loss is the mean over."""
    learning_budget: int | None = None
    """The same of passes that keep what a gradient needs; as many by default."""
    fused: bool = False
    """Without gradients, layers are compiled (``fused``)."""
    room: Room = field(default_factory=Room, compare=False)
    """What its device turned out not to hold."""
    history: History = field(default_factory=History)
    """What is known of the training that its optimizer is from."""

    def encode(self, example: Example) -> Encoded:
        """The conversation in the model's own template; the assistant's turns learn.

        Raises:
            UserError: the example is longer than the context, or has no room for a response token.
        """
        row = _encode(self.tokenizer, example, self.max_length, self.cut, self.learn)
        known = int(self.model.config.get_text_config().vocab_size)
        if max(row.ids) >= known:
            token = self.tokenizer.convert_ids_to_tokens(max(row.ids))
            raise UserError(
                f"example '{example.id}' has the token '{token}', number {max(row.ids)}, which the "
                f"model's embedding of {known} rows does not have: its tokenizer was added to "
                "without resizing the model; leave the example out, or resize the embedding"
            )
        return row

    def batches(
        self, examples: Sequence[Example], *, learning: bool = False, at_most: int | None = None
    ) -> list[TokenBatch]:
        """``examples`` tokenised, in length-sorted batches under a token budget.

        Args:
            examples: in any order and number.
            learning: whether a gradient will be taken, which needs more memory a token.
            at_most: padded tokens in one batch where the caller can hold fewer than the student.
        """
        budget = (self.learning_budget if learning else None) or self.token_budget
        rows = [self.encode(e) for e in examples]
        return self.laid_out(rows, min(budget, at_most or budget), examples)

    def laid_out(
        self, rows: Sequence[Encoded], budget: int, examples: Sequence[Example] = ()
    ) -> list[TokenBatch]:
        """Rows in length-sorted batches of at most ``budget`` padded tokens, or one row."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return laid_out(
            examples,
            rows,
            budget=budget,
            pad=pad,
            pad_to=self.pad_to,
            device=self.model.device,
            limit=short_positions(self.model.config),
        )

    def loss(self, batch: TokenBatch, *, together: bool = False) -> torch.Tensor:
        """Per-example loss, shape [example], fp64 nats per response token.

        Args:
            batch: the examples.
            together: rows share one sequence with gradients too; for who wants the gradient of the
                whole batch and nothing that a module sees of a row.
        """
        row_index, time_index, targets = batch.targets
        learning = torch.is_grad_enabled()
        shared = not learning or (together and len(batch.rows) > 1)
        with self.precision():
            if self.packed and shared and not self.pad_to:
                compiled = self.fused and not learning
                with fused.layers(decoder_of(self.model)) if compiled else nullcontext():
                    states = packing.hidden(self.model, batch.packing)
                hidden = states[batch.packing.place[row_index, time_index]]
            else:
                hidden = self.hidden(batch.tokens)[row_index, time_index]
            nll = token_nll(hidden, self.head, targets, self.vocabulary)
        return mean_by_row(nll, row_index, len(batch.rows))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states after the final norm, shape [row, time, width]."""
        return decoder_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states, shape [token, vocabulary]."""
        head = self.model.get_output_embeddings()
        assert head is not None
        if self.model.dtype == torch.bfloat16:  # Mamba's states are in fp32 there; its head casts
            hidden = hidden.to(torch.bfloat16)
        config, logits = self.model.config, head(hidden)
        for factor in self.logit_factors:
            logits = logits * factor
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2 only
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def logit_factors(self) -> list[float]:
        """What the output embedding's products are multiplied with, in order; mostly nothing."""
        told = [(getattr(self.model.config, name, None), power) for name, power in SCALES.items()]
        return [scale**power for scale, power in told if scale is not None]

    @property
    def vocabulary(self) -> int:
        """How many logits a token has."""
        return int(self.model.config.get_text_config().vocab_size)

    @contextmanager
    def precision(self) -> Generator[None]:
        """Products in the student's dtype for as long as this is open."""
        device = self.model.device.type
        autocast = self.compute == "bfloat16"
        context = torch.autocast(device, torch.bfloat16) if autocast else nullcontext()
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.compute == "tf32"
        try:
            with context:
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


def short_positions(config: PreTrainedConfig) -> int | None:
    """The length beyond which a model turns the positions of a whole batch otherwise (LongRoPE).

    A short row beside a long one would have another loss than alone.
    """
    told = getattr(config.get_text_config(), "rope_parameters", None) or {}
    layers = [told] if "rope_type" in told else [own for own in told.values() if own]
    limits = [
        int(own["original_max_position_embeddings"])
        for own in layers
        if own.get("rope_type") == "longrope"
    ]
    return min(limits, default=None)


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    max_length: int,
    cut: bool,
    learn: conversation.Learn,
) -> Encoded:
    found = conversation.tokens(tokenizer, example.turns, finished=example.finished, learn=learn)
    ids, spans, length = found.ids, found.spans, len(found.ids)
    if length > max_length:
        if not cut:
            raise UserError(
                f"example '{example.id}' has {length} tokens, the student's context holds "
                f"{max_length}: shorten or drop it, or set scoring.max_length to cut at that length"
            )
        ids = ids[:max_length]
        spans = tuple((a, min(b, max_length)) for a, b in spans if a < max_length)
    if not spans:
        raise UserError(
            f"example '{example.id}': its prompt alone fills the {max_length} tokens allowed, "
            "so no response token is left to learn: shorten it or raise scoring.max_length"
        )
    return Encoded(ids, spans, cut=length > max_length)
