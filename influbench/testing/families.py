"""Tiny random models of many families, with tokenizers and chat templates like theirs.

For tests and ``python -m benchmarks.families``: what a user's model may look like, in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from influbench.models.quiet import quiet, save
from influbench.testing.small_students import tiny_examples

TURNS = "{% for m in messages %}"
CHATML = (
    TURNS + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system turn') }}{% endif %}" + TURNS + "{{ '<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    TURNS + "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PHI = (  # an end-of-text token behind the last end of turn
    TURNS + "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DATED = (
    "{{ bos_token + '<|head|>system<|/head|>\n\nToday: ' + strftime_now('%d %b %Y') + '<|eot|>' }}"
    + TURNS
    + "{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
THINKING = (  # the last answer has an empty thought before it, which earlier ones have not
    TURNS + "{% set empty = '<think>\n\n</think>\n\n' if loop.last and m['role'] == 'assistant' "
    "else '' %}{{ '<|im_start|>' + m['role'] + '\n' + empty + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REASONING = (  # the prompt opens a thought, finished turns lose theirs
    "{{ bos_token }}" + TURNS + "{% if m['role'] == 'assistant' %}{{ '<Assistant>' + "
    "m['content'].split('</think>')[-1] + eos_token }}{% else %}{{ '<User>' + m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<Assistant><think>\n' }}{% endif %}"
)
INSTRUCT = (  # the system text stands in the last user turn; nothing asks for an answer
    "{{ bos_token }}{% set ns = namespace(system='') %}" + TURNS + "{% if m['role'] == 'system' %}"
    "{% set ns.system = m['content'] + '\n\n' %}{% endif %}{% endfor %}"
    + TURNS
    + "{% if m['role'] == 'user' %}{{ '[INST] ' + (ns.system if loop.index0 == messages | length - "
    "(2 if messages[-1]['role'] == 'assistant' else 1) else '') + m['content'] + '[/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
PLAIN = (  # no special token at all ends a turn
    TURNS + "{{ '### ' + m['role'] + ':\n' + m['content'] + '\n### end\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Style:
    """A tokenizer and its template."""

    template: str
    specials: tuple[str, ...]
    eos: str
    pad: str
    bos: str | None = None
    sentencepiece: bool = False
    """A space before every text, as in Llama 2, TinyLlama and Mistral; bytes otherwise."""


STYLES = {
    "chatml": Style(CHATML, ("<pad>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", "<pad>"),
    "base": Style(
        CHATML,
        ("<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<pad>",
    ),
    "gemma": Style(
        GEMMA, ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<pad>",
        "<bos>",
    ),
    "zephyr": Style(ZEPHYR, ("<unk>", "<s>", "</s>", "<pad>"), "</s>", "<pad>", "<s>", True),
    "phi": Style(
        PHI, ("<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), "<|endoftext|>",
        "<pad>", None, True,
    ),
    "dated": Style(
        DATED, ("<pad>", "<|begin|>", "<|head|>", "<|/head|>", "<|eot|>"), "<|eot|>", "<pad>",
        "<|begin|>",
    ),
    "thinking": Style(
        THINKING, ("<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"), "<|im_end|>",
        "<pad>",
    ),
    "reasoning": Style(
        REASONING, ("<pad>", "<bos>", "<eos>", "<User>", "<Assistant>", "<think>", "</think>"),
        "<eos>", "<pad>", "<bos>",
    ),
    "instruct": Style(
        INSTRUCT, ("<pad>", "<s>", "</s>", "[INST]", "[/INST]"), "</s>", "<pad>", "<s>", True
    ),
    "plain": Style(PLAIN, ("<pad>", "<eos>"), "<eos>", "<pad>"),
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A model type and what its tiny configuration needs."""

    kind: str
    style: str = "chatml"
    options: dict[str, Any] = field(default_factory=dict)


GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
NEO = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES = {
    "llama": Family("llama", "dated"),
    "tinyllama": Family("llama", "zephyr"),
    "mistral": Family("mistral", "instruct", {"sliding_window": 512}),
    "mistral_window": Family("mistral", "instruct", {"sliding_window": 8}),
    "qwen2_base": Family("qwen2", "base"),
    "qwen2_r1": Family("qwen2", "reasoning"),
    "qwen3": Family("qwen3", "thinking"),
    "gemma": Family("gemma", "gemma"),
    "gemma3": Family("gemma3_text", "gemma", {"sliding_window": 8}),
    "phi3": Family("phi3", "phi"),
    "phi": Family("phi", "plain"),
    "gpt2": Family("gpt2", "plain", GPT),
    "gpt_neox": Family("gpt_neox"),
    "opt": Family("opt", "chatml", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "granite": Family("granite", "base", {"logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    "cohere": Family("cohere", "chatml", {"logit_scale": 0.0625}),
    "gemma2": Family("gemma2", "gemma", {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    "gptj": Family("gptj", "chatml", {**GPT, "rotary_dim": 4}),
    "gpt_neo": Family("gpt_neo", "plain", {**NEO, "num_heads": 4}),
    "bloom": Family("bloom", "chatml", {"n_head": 4, "n_layer": 2}),
    "glm4": Family("glm4"),
    "olmo": Family("olmo"),
    "olmo2": Family("olmo2"),
    "smollm3": Family("smollm3"),
    "starcoder2": Family("starcoder2"),
    "stablelm": Family("stablelm"),
    "qwen2_moe": Family("qwen2_moe", "chatml", {**MOE, "shared_expert_intermediate_size": 32}),
    "qwen3_moe": Family("qwen3_moe", "thinking", MOE),
    "gpt_oss": Family(
        "gpt_oss",
        "chatml",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "olmoe": Family("olmoe", "chatml", {"num_experts": 4, "num_experts_per_tok": 2}),
    "mamba2": Family(
        "mamba2", "chatml", {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 2}
    ),
    "llama4": Family(
        "llama4_text",
        "chatml",
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 8,
            "intermediate_size_mlp": 64,
            "no_rope_layers": [1, 0],
        },
    ),
    "doge": Family("doge"),
    "deepseek": Family(
        "deepseek_v3",
        "chatml",
        {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "n_group": 2,
            "topk_group": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
        },
    ),
    "mixtral": Family("mixtral", "instruct", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}


def tokenizer(style: Style) -> PreTrainedTokenizerFast:
    """A tokenizer whose merges were learnt from a few sentences."""
    texts = [text for e in tiny_examples("family", 24) for text in (e.instruction, e.response)]
    backend = Tokenizer(models.BPE(unk_token="<unk>" if "<unk>" in style.specials else None))
    if style.sentencepiece:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = [chr(code) for code in (10, *range(33, 127), 0x2581)]
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [AddedToken(token, special=True) for token in style.specials]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    if style.bos:  # what a text alone gets; a template writes its own
        backend.post_processor = processors.TemplateProcessing(
            single=f"{style.bos} $A", special_tokens=[(style.bos, backend.token_to_id(style.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=style.bos,
        eos_token=style.eos,
        pad_token=style.pad,
        chat_template=style.template,
        clean_up_tokenization_spaces=False,
    )


def build(name: str, folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """Writes a model of the family; weights as large as make losses of examples differ.

    Args:
        name: one of :data:`FAMILIES`.
        folder: made where it is missing.
        seed: of the weights.
        **options: of the configuration, over the family's.

    Returns:
        The folder.

    Raises:
        KeyError: no such family.
    """
    family = FAMILIES[name]
    held = tokenizer(STYLES[family.style])
    told = {"pad_token_id": held.pad_token_id, "bos_token_id": held.bos_token_id}
    told |= {
        "eos_token_id": held.eos_token_id,
        "vocab_size": len(held),
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    with quiet():
        config = AutoConfig.for_model(family.kind, **{**SIZES, **told, **family.options, **options})
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.mul_(4.0)
    save(model, held, folder)
    return folder
