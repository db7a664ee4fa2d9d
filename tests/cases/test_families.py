"""Families whose attention or experts have no kernel of some kind: right anyway, or one line."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases.trained import Trained, rows, trained
from command import influbench
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    RemBertConfig,
    RemBertForCausalLM,
)

from benchmarks.families import compared
from influbench import foreign, models, testing
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, registry
from influbench.models.decoder import decoder_of
from influbench.models.quiet import save
from influbench.store import passes
from influbench.student import StudentSettings, load_student
from influbench.testing import families
from influbench.testing.families import STYLES, tokenizer

CANDIDATES = testing.tiny_examples("candidate", 3)
REFERENCES = testing.tiny_examples("reference", 2)
WITHOUT_SDPA = ("gemma2", "gpt_oss", "bloom", "gptj", "gpt_neo", "mamba2")
WITH_EXPERTS = ("qwen2_moe", "qwen3_moe", "olmoe", "mixtral", "gpt_oss", "llama4")
OF_THEIR_OWN = ("llama4", "doge")
"""Transformers has no decoder for the one, and the other makes masks of its own in each layer."""


def plainly(folder: Path) -> tuple[list[float], list[float]]:
    """Losses, and products of gradients with the references' mean one."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    run = Trained(folder, model.float().eval(), AutoTokenizer.from_pretrained(folder))
    weights = list(run.model.parameters())

    def gradient(examples: Any) -> torch.Tensor:
        mean = torch.stack([run.loss(run.model, e) for e in examples]).mean()
        found = torch.autograd.grad(mean, weights, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found]).double()

    reference = gradient(REFERENCES)
    with torch.no_grad():
        losses = [float(run.loss(run.model, c)) for c in CANDIDATES]
    return losses, [float(reference @ gradient([c])) for c in CANDIDATES]


def change(file: Path, **values: Any) -> None:
    """Writes other values into a file of JSON."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def scores(folder: Path, estimator: str, dtype: Any = "float32", **options: Any) -> np.ndarray:
    student = load_student(models.resolve(str(folder)), StudentSettings(dtype=dtype))
    context = Context(
        student=student, reference=REFERENCES, warmup=(), scratch=folder / "x", seed=0
    )
    method = registry.build(estimator, options)
    return as_scores(method.prepare(context)(CANDIDATES), len(CANDIDATES)).value


class Passes:
    """Counts sequences."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def forward(self, sequences: int, positions: int) -> None:
        self.forwards += sequences

    def backward(self, sequences: int) -> None:
        self.backwards += sequences


@pytest.mark.parametrize("name", WITHOUT_SDPA)
def test_a_model_without_sdpa_attends_eagerly(name: str, tmp_path: Path) -> None:
    folder = families.build(name, tmp_path / "m")
    losses, products = plainly(folder)
    assert -scores(folder, "loss") == pytest.approx(losses, rel=1e-5)
    assert scores(folder, "gradient_dot") == pytest.approx(products, rel=1e-4)


@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_decoders_and_masks_of_their_own(name: str, tmp_path: Path) -> None:
    folder = families.build(name, tmp_path / "m")
    losses, products = plainly(folder)
    assert -scores(folder, "loss") == pytest.approx(losses, rel=1e-5)
    assert scores(folder, "gradient_dot") == pytest.approx(products, rel=1e-4)
    for method in ("materialised", "jvp"):
        found = scores(folder, "adam_jvp", method=method, preconditioner="none")
        assert found == pytest.approx(products, rel=1e-4)
    run = trained(tmp_path / "run", folder, CANDIDATES)
    right = run.influences(CANDIDATES, REFERENCES)
    assert scores(run.folder, "exact") == pytest.approx(right, abs=3e-6)
    assert np.ptp(right) > 1e-4


@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_rows_of_theirs_are_not_packed(name: str, tmp_path: Path) -> None:
    student = load_student(models.resolve(str(families.build(name, tmp_path / "m"))))
    assert not student.packed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_token_that_hangs_on_the_next_ones_is_one_line(dtype: Any, tmp_path: Path) -> None:
    experts = {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 2}
    folder = families.build("doge", tmp_path / "m", **experts)
    with pytest.raises(UserError, match="'doge' a token's state hangs on those that") as told:
        load_student(models.resolve(str(folder)), StudentSettings(dtype=dtype))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_no_causal_model_is_refused_for_the_rounding_of_bf16(name: str, tmp_path: Path) -> None:
    folder = families.build(name, tmp_path / "m")
    right, _ = plainly(folder)
    assert -scores(folder, "loss", "bfloat16") == pytest.approx(right, rel=0.05)


@pytest.mark.parametrize("name", ["llama", "qwen2_r1"])
@pytest.mark.parametrize("stated", [True, False])
def test_padding_with_a_token_of_the_texts_is_as_transformers_has_it(
    name: str, stated: bool, tmp_path: Path
) -> None:
    """The row of config.json's ``pad_token_id`` has no gradient, where it states one."""
    folder = families.build(name, tmp_path / "m")
    held = AutoTokenizer.from_pretrained(folder)
    change(folder / "tokenizer_config.json", pad_token=held.bos_token)
    change(folder / "config.json", pad_token_id=held.bos_token_id if stated else None)
    assert models.load_tokenizer(models.resolve(str(folder))).pad_token == held.bos_token
    _, numbers = compared(folder)
    assert max(numbers) < 1e-5


@pytest.mark.parametrize("stated", [True, False])
def test_the_moments_of_a_checkpoint_say_whether_the_padding_token_learns(
    stated: bool, tmp_path: Path
) -> None:
    """The Trainer writes ``pad_token_id`` into the config.json of a model that was made without."""
    folder = families.build("qwen3", tmp_path / "m", tie_word_embeddings=False)
    held = AutoTokenizer.from_pretrained(folder)
    number = rows(held, CANDIDATES[0])[0][3]
    change(folder / "tokenizer_config.json", pad_token=held.convert_ids_to_tokens(number))
    change(folder / "config.json", pad_token_id=number if stated else None)
    run = trained(tmp_path / "run", folder, CANDIDATES)
    assert json.loads((run.folder / "config.json").read_text())["pad_token_id"] == number
    right = run.influences(CANDIDATES, REFERENCES)
    assert scores(run.folder, "exact") == pytest.approx(right, abs=1e-4 * float(np.std(right)))


def test_an_encoder_with_a_decoder_is_one_line(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"d_model": 32, "vocab_size": 420, "max_position_embeddings": 256}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 64}
    folder = tmp_path / "m"
    save(BartForConditionalGeneration(BartConfig(**sizes)), tokenizer(STYLES["chatml"]), folder)
    with pytest.raises(
        UserError, match="got BartForConditionalGeneration, which is an enc"
    ) as told:
        load_student(models.resolve(str(folder)))
    assert "\n" not in str(told.value)


def test_a_head_that_is_no_language_models_is_one_line(tmp_path: Path) -> None:
    folder = families.build("llama", tmp_path / "m")
    change(folder / "config.json", architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UserError, match="LlamaForSequenceClassification, which is no language mod"):
        load_student(models.resolve(str(folder)))


def test_layers_that_the_configuration_leaves_out_are_one_line(tmp_path: Path) -> None:
    folder = families.build("llama", tmp_path / "m")
    change(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"have further layers than .*, first model\.layers\.1\."):
        load_student(models.resolve(str(folder)))


def test_an_output_embedding_of_another_width_is_one_line(tmp_path: Path) -> None:
    config = RemBertConfig(
        vocab_size=420, hidden_size=32, input_embedding_size=16, output_embedding_size=48,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, is_decoder=True,
        max_position_embeddings=256,
    )  # fmt: skip
    save(RemBertForCausalLM(config), tokenizer(STYLES["chatml"]), tmp_path / "m")
    with pytest.raises(UserError, match="'rembert' computes its logits in a way"):
        load_student(models.resolve(str(tmp_path / "m")))


def test_a_model_that_transformers_cannot_run_is_one_line(tmp_path: Path) -> None:
    sizes = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 8}
    folder = families.build("deepseek", tmp_path / "m", num_key_value_heads=2, **sizes)
    with pytest.raises(UserError, match="cannot run this model of type 'deepseek_v3'") as told:
        load_student(models.resolve(str(folder)))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_passes_of_every_family_are_counted(name: str, tmp_path: Path) -> None:
    student = load_student(models.resolve(str(families.build(name, tmp_path / "m"))))
    batch = student.laid_out([student.encode(c) for c in CANDIDATES], 10_000)[0]
    found = Passes()
    with passes.counted([passes.backbone(student.model)], found):
        student.loss(batch).sum().backward()
    assert (found.forwards, found.backwards) == (3, 3)


def test_a_model_without_a_decoder_is_one_line(tmp_path: Path) -> None:
    model = load_student(models.resolve(str(families.build("llama4", tmp_path / "m")))).model
    with pytest.raises(UserError, match="'llama4_text' has no model inside it"):
        decoder_of(decoder_of(model))


def test_hooks_that_do_not_fit_a_model_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("dattri_llm")
    folder = families.build("llama4", tmp_path / "m")
    with pytest.raises(UserError, match="do not work on models of type 'llama4_text'"):
        scores(folder, "dattri_tracin")


@pytest.mark.parametrize("name", ["granite", "cohere"])
def test_logits_that_the_configuration_scales(name: str, tmp_path: Path) -> None:
    folder = families.build(name, tmp_path / "m")
    losses, products = plainly(folder)
    assert -scores(folder, "loss") == pytest.approx(losses, rel=1e-5)
    for method, options in (("gradient_dot", {}), ("adam_jvp", {"method": "ghost"})):
        found = scores(folder, method, **({"preconditioner": "none", **options} if options else {}))
        assert found == pytest.approx(products, rel=1e-4)


@pytest.mark.parametrize("name", ["granite", "cohere", "gemma2", "llama4"])
def test_another_toolkits_worker_computes_the_same_losses(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(foreign.WORKERS)
    response_loss = importlib.import_module("response_loss")
    folder = families.build(name, tmp_path / "m")
    model = load_student(models.resolve(str(folder))).model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [rows(tokenizer, c) for c in CANDIDATES]
    given = [SimpleNamespace(ids=i, learned=list(range(n, len(i)))) for i, n in encoded]
    with torch.no_grad():
        found = response_loss.losses(model, *response_loss.padded(given, 0)).tolist()
    assert found == pytest.approx(plainly(folder)[0], rel=1e-5)


def test_logits_made_in_an_unknown_way_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = families.build("cohere", tmp_path / "m")
    monkeypatch.setattr("influbench.student.language_student.SCALES", {})
    with pytest.raises(UserError, match="'cohere' computes its logits in a way"):
        load_student(models.resolve(str(folder)))


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_forward_mode_goes_through_experts(name: str, tmp_path: Path) -> None:
    folder = families.build(name, tmp_path / "m")
    student = load_student(models.resolve(str(folder)))
    before = student.model.config._experts_implementation
    found = scores(folder, "adam_jvp", method="jvp", preconditioner="none")
    assert found == pytest.approx(plainly(folder)[1], rel=1e-4)
    assert student.model.config._experts_implementation == before


def test_what_has_no_derivative_in_forward_mode_is_one_line(tmp_path: Path) -> None:
    folder = families.build("bloom", tmp_path / "m")  # its GELU is a function of its own
    with pytest.raises(UserError, match="without a derivative in forward mode") as told:
        scores(folder, "adam_jvp", method="jvp", preconditioner="none")
    assert "\n" not in str(told.value)
    found = scores(folder, "adam_jvp", method="ghost", preconditioner="none")
    assert found == pytest.approx(plainly(folder)[1], rel=1e-4)


def test_routers_with_several_outputs_are_one_line_for_the_ghost_product(tmp_path: Path) -> None:
    folder = families.build("mixtral", tmp_path / "m")
    with pytest.raises(UserError, match=r"several outputs.*method = 'jvp'"):
        scores(folder, "adam_jvp", method="ghost", preconditioner="none")


def test_a_recurrent_model_without_a_limit_is_warmed_up_and_scored(tmp_path: Path) -> None:
    folder = families.build("mamba2", tmp_path / "m", max_position_embeddings=None)
    given = [{"id": e.id, "instruction": e.instruction, "response": e.response} for e in CANDIDATES]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    done = influbench(
        *("score", "--student", str(folder), "--candidates", "c.jsonl", "--reference", "c.jsonl"),
        *("--warmup", "c.jsonl", "--set", "warmup.batch_size=1", "--set", "warmup.epochs=2"),
        *("--set", "warmup.learning_rate=1e-3", "--estimator", "exact", "--out", "out.jsonl"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "AdamW after 6 steps, learning rate 0.001 (the warm-up's), clipped at norm 1" in done.stdout
    )
    assert np.ptp(pd.read_json(tmp_path / "out.jsonl", lines=True)["score"].to_numpy()) > 0
