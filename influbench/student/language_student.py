"""The student: a language model, its optimizer state, and its per-example loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from influbench import models
from influbench.errors import UserError
from influbench.models import conversation
from influbench.records import Example, ModelRef
from influbench.student import packing
from influbench.student.batch import TokenBatch, laid_out
from influbench.student.losses import Encoded, mean_by_row, token_nll

Compute = Literal["float32", "bfloat16", "tf32"]


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
    compute: Compute = "float32"
    """Dtype of the matrix products; weights, updates and losses keep theirs."""
    pad_to: int = 0
    """Pad every batch to at least so many tokens, as the released code does; costs time only."""
    packed: bool = False
    """Without gradients, rows go through the model in one sequence (``packing``)."""
    learn: conversation.Learn = "all"
    """Which assistant turns of a conversation its loss is the mean over."""

    def encode(self, example: Example) -> Encoded:
        """The conversation in the model's own template; the assistant's turns learn.

        Raises:
            UserError: the example is longer than the context, or has no room for a response token.
        """
        return _encode(self.tokenizer, example, self.max_length, self.cut, self.learn)

    def batches(self, examples: Sequence[Example], at_most: int | None = None) -> list[TokenBatch]:
        """``examples`` tokenised, in length-sorted batches under the token budget.

        Args:
            examples: in any order and number.
            at_most: padded tokens in one batch where the caller can hold fewer than the student.
        """
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return laid_out(
            examples,
            [self.encode(e) for e in examples],
            budget=min(self.token_budget, at_most or self.token_budget),
            pad=pad,
            pad_to=self.pad_to,
            device=self.model.device,
        )

    def loss(self, batch: TokenBatch) -> torch.Tensor:
        """Per-example loss, shape [example], fp64 nats per response token."""
        row_index, time_index, targets = batch.targets
        with self._precision():
            if self.packed and not torch.is_grad_enabled() and not self.pad_to:
                states = packing.hidden(self.model, batch.packing)
                hidden = states[batch.packing.place[row_index, time_index]]
            else:
                hidden = self.hidden(batch.tokens)[row_index, time_index]
            nll = token_nll(hidden, self._head, targets)
        return mean_by_row(nll, row_index, len(batch.rows))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Last hidden states after the final norm, shape [row, time, width]."""
        return self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        assert head is not None
        logits = head(hidden)
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma 2 only
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @contextmanager
    def _precision(self) -> Iterator[None]:
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
                f"{max_length}: shorten or drop it, or set student.max_length to cut at that length"
            )
        ids = ids[:max_length]
        spans = tuple((a, min(b, max_length)) for a, b in spans if a < max_length)
    if not spans:
        raise UserError(
            f"example '{example.id}': its prompt alone fills the {max_length} tokens allowed, "
            "so no response token is left to learn: shorten it or raise student.max_length"
        )
    return Encoded(ids, spans, cut=length > max_length)


@dataclass(frozen=True)
class StudentSettings:
    """How a student is held for scoring."""

    device: str = "auto"
    dtype: str = "float32"
    compute: Compute = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    max_length: int | None = None
    """Cut examples here; None = refuse those longer than the context."""
    learn: conversation.Learn = "all"
    """Which assistant turns of a conversation count."""
    chat_template: str | None = None
    """For a model without one: ``chatml``, a jinja file, or the template itself."""
    token_budget: int | None = None


def default_token_budget(device: str) -> int:
    """Padded tokens in one batch: enough to fill the cores, little enough to stay in cache."""
    return 2048 if device == "cpu" else 16384


def load_student(ref: ModelRef, settings: StudentSettings | None = None) -> LanguageStudent:
    """Loads a student with the optimizer state beside it, where its folder holds one.

    Without one the optimizer is AdamW without moments; estimators that need moments refuse it.

    Raises:
        UserError: the optimizer state does not fit the model.
    """
    settings = settings or StudentSettings()
    loaded = models.load(
        ref,
        dtype=settings.dtype,
        device=settings.device,
        attention=settings.attention,
        chat_template=settings.chat_template,
    )
    model, tokenizer = loaded.model, loaded.tokenizer
    _check_head(model)
    optimizer, clip_norm = load_optimizer(model, Path(ref.path))
    context = models.context_length(model)
    return LanguageStudent(
        model=model,
        tokenizer=tokenizer,
        optimizer=optimizer,
        clip_norm=clip_norm,
        max_length=min(settings.max_length or context, context),
        cut=settings.max_length is not None,
        token_budget=settings.token_budget or default_token_budget(model.device.type),
        compute=settings.compute,
        packed=packing.works(model),
        learn=settings.learn,
    )


def load_optimizer(
    model: PreTrainedModel, folder: Path
) -> tuple[torch.optim.Optimizer, float | None]:
    """The AdamW of a warm-up or of a Hugging Face Trainer checkpoint, and the training's clip norm.

    Raises:
        UserError: the state holds other parameters than the model has.
    """
    path = folder / "optimizer.pt"
    if not path.is_file():
        return torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0), 1.0
    state = torch.load(path, map_location=model.device, weights_only=True)
    names, clip_norm = _checkpoint_facts(folder, model, state)
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for group in state["param_groups"]:
        held = [names[i] for i in group["params"]]
        unknown = [name for name in held if name not in parameters]
        if unknown:
            raise UserError(
                f"{path} holds the state of '{unknown[0]}', which the model in {folder} does not "
                "have: expected the optimizer of this very model"
            )
        groups.append({"params": [parameters[name] for name in held]})
    optimizer = torch.optim.AdamW(groups)
    for index, slot in state["state"].items():
        expected, got = parameters[names[index]].shape, slot["exp_avg"].shape
        if expected != got:
            raise UserError(
                f"{path}: moments of '{names[index]}' have shape {tuple(got)}, the weight has "
                f"{tuple(expected)}: expected the optimizer of this very model"
            )
    optimizer.load_state_dict(state)
    return optimizer, clip_norm


def _checkpoint_facts(
    folder: Path, model: PreTrainedModel, state: dict[str, Any]
) -> tuple[dict[int, str], float | None]:
    """Parameter names by their number in the state, and the clip norm of the training."""
    ours = folder / "warmup.json"
    if ours.is_file():
        facts = json.loads(ours.read_text())
        return dict(enumerate(facts["names"])), facts["clip_norm"]
    clip: float | None = 1.0  # the Trainer's default; a checkpoint keeps its arguments in a pickle
    arguments = folder / "training_args.bin"
    if arguments.is_file():
        clip = torch.load(arguments, weights_only=False).max_grad_norm or None
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if len(state["param_groups"]) == 1:
        return dict(enumerate(trained)), clip
    # The Trainer numbers decayed weights first, then biases and norms, each in model order.
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    order = [n for n in trained if n in decayed] + [n for n in trained if n not in decayed]
    return dict(enumerate(order)), clip


@torch.inference_mode()
def _check_head(model: PreTrainedModel) -> None:
    """Fails when decoder + output embedding is not the whole model (logits scaled in some way)."""
    ids = torch.arange(3, 8, device=model.device)[None] % model.config.get_text_config().vocab_size
    probe = LanguageStudent.__new__(LanguageStudent)
    object.__setattr__(probe, "model", model)
    ours = probe._head(probe.hidden(ids))
    theirs = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
        raise UserError(
            f"model type '{model.config.model_type}' computes its logits in a way that influbench "
            "does not know: expected output embedding of the last hidden state (with Gemma's soft "
            "cap at most)"
        )
