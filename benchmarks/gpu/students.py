"""Students with random weights of real shapes, built where they are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from influbench import testing
from influbench.data.records import Example
from influbench.models import tiny
from influbench.student import Compute, LanguageStudent, budgets
from influbench.student.placement import Placement, place
from influbench.student.placement.pinned import pinned

SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "toy": (64, 128, 3, 4, 2, 512, True),
    "135M": (576, 1536, 30, 9, 3, 49152, True),
    "1.1B": (2048, 5632, 22, 32, 4, 32000, False),
    "8B": (4096, 14336, 32, 32, 8, 128256, False),
}
"""Width, inner width, layers, heads, key heads, vocabulary, tied head; the real ones are those of
SmolLM2-135M, TinyLlama-1.1B and Llama-3-8B."""

CONTEXT = 2048
LEARNING_RATE = 5e-6


def network(
    shape: str, device: torch.device, layers: int | None = None, seed: int = 0
) -> LlamaForCausalLM:
    """Random fp32 weights, N(0, 1/fan-in); all layers of the shape by default."""
    width, inner, depth, heads, key_heads, vocabulary, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
    )
    with _without_initialisation(), device:
        model = LlamaForCausalLM(config)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
            else:
                weight.fill_(1.0)
    return model.eval()


def student(
    shape: str,
    device: torch.device,
    compute: Compute = "float32",
    *,
    moments: bool = True,
    layers: int | None = None,
) -> LanguageStudent:
    """A student after two real steps of AdamW, its token budgets measured where it is on a GPU.

    Without moments it has taken no step, and budgets are left to the caller.
    """
    model = network(shape, device, layers)
    held = LanguageStudent(
        model=model,
        tokenizer=tiny.build_tokenizer(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0),
        clip_norm=1.0,
        max_length=CONTEXT,
        cut=True,
        token_budget=budgets.ON_A_CPU,
        compute=compute,
        packed=True,
    )
    if not moments:
        return held
    testing.warmed(held, examples("warmup", 4, 160, 40), steps=2)
    return budgeted(held)


def budgeted(held: LanguageStudent) -> LanguageStudent:
    """With token budgets measured, on a GPU."""
    if held.model.device.type != "cuda":
        return held
    without, learning = budgets.measured(held)
    return dataclasses.replace(held, token_budget=without, learning_budget=learning)


def layers_within(shape: str, size: float) -> int:
    """As many layers of a shape as have weights and moments in so many bytes of host memory."""
    width, inner, depth, heads, key_heads, vocabulary, _ = SHAPES[shape]
    layer = 2 * width * width * (heads + key_heads) // heads + 3 * width * inner
    ends = 2 * width * vocabulary
    return max(1, min(depth, int((size / 12 - ends) // layer)))


def offloaded(shape: str, device: torch.device, compute: Compute, layers: int) -> LanguageStudent:
    """A student with random moments whose fp32 weights and moments lie in host memory.

    Weights are drawn on the device and copied to the host, tensor by tensor.
    """
    held = student(shape, device, compute, moments=False, layers=layers)
    for weight in list(held.model.parameters()):
        drawn = weight.detach()
        state = held.optimizer.state[weight]
        state["step"] = torch.tensor(10.0)
        for name, source in (
            ("exp_avg", torch.randn_like(drawn) * 1e-6),
            ("exp_avg_sq", torch.rand_like(drawn) * 1e-10),
        ):
            state[name] = on_host(source, device)
        weight.data = on_host(drawn, device)
        del drawn
    kind: Placement = "offloaded"
    return budgeted(place(held, device, kind))


def on_host(source: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy in host memory, whose pages all cores fetch at once before they are pinned."""
    out = torch.zeros(source.shape, dtype=source.dtype).fill_(1.0)
    out = pinned(out, device)
    out.copy_(source)
    _HELD.append(out)
    return out


_HELD: list[torch.Tensor] = []
"""Memory stays pinned as long as the tensor that pinned it: here until the process ends."""


def examples(kind: str, count: int, mean: int, spread: int) -> list[Example]:
    """Random letters: ``mean`` ± ``spread`` tokens, about three fifths of them the response."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    out = []
    for i in range(count):
        length = int(np.clip(rng.normal(mean, spread), mean // 2, 2 * mean)) - 30  # the template's
        response = max(8, length * 3 // 5)
        words = [
            "".join(chr(97 + c) for c in rng.integers(0, 26, n))
            for n in (max(4, length - response), response)
        ]
        out.append(Example(id=f"{kind}-{i}", instruction=words[0], response=words[1]))
    return out


@contextmanager
def _without_initialisation() -> Generator[None]:
    """Layers made inside keep whatever their memory holds: it is filled afterwards anyway."""
    kinds = torch.nn.Linear, torch.nn.Embedding
    before = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda _: None  # pyright: ignore[reportAttributeAccessIssue]
    own = LlamaForCausalLM.init_weights
    LlamaForCausalLM.init_weights = lambda self: self.tie_weights()
    try:
        yield
    finally:
        for kind, reset in zip(kinds, before, strict=True):
            kind.reset_parameters = reset  # pyright: ignore[reportAttributeAccessIssue]
        LlamaForCausalLM.init_weights = own
