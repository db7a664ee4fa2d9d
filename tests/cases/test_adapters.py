"""Adapters of peft as students: merged right, or scored and warmed up in weights of their own.

Right values: peft's own model, unmerged, and one AdamW step on it.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases.trained import RATE, Trained, trained
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from influbench import models, score, testing
from influbench.errors import UserError
from influbench.estimator import Context, as_scores, registry
from influbench.student import StudentSettings, Told, load_student
from influbench.student.placement.place import needed
from influbench.testing import families

CANDIDATES = testing.tiny_examples("candidate", 3)
REFERENCES = testing.tiny_examples("reference", 2)
LEARNT = testing.tiny_examples("learnt", 4)
ATTENTION = ["q_proj", "v_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "layers": {"target_modules": ATTENTION},
    "head": {"target_modules": [*ATTENTION, "lm_head"]},
    "embedding": {"target_modules": [*ATTENTION, "embed_tokens"]},
    "saved_head": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "saved_both": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_tied": {
        "target_modules": ATTENTION,
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "embedding_tied": {
        "target_modules": [*ATTENTION, "embed_tokens"],
        "ensure_weight_tying": True,
    },
    "tokens": {"target_modules": ATTENTION, "trainable_token_indices": [1, 3, 50, 60]},
    "dora": {"target_modules": ATTENTION, "use_dora": True},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "all_linear": {"target_modules": "all-linear", "r": 1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With tied embeddings."""
    return families.build("qwen2_base", tmp_path_factory.mktemp("base"))


def adapted(model: Any, **options: Any) -> PeftModel:
    told = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied embeddings, which these tests are about
        return get_peft_model(model, LoraConfig(**told))


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What users of LESS have: an adapter's folder with its own optimizer."""
    return trained(
        tmp_path_factory.mktemp("lora"),
        base,
        LEARNT,
        prepare=lambda model: adapted(model, **KINDS["layers"]),
        learning_rate=1e-2,
    )


def written(base: Path, folder: Path, **options: Any) -> tuple[Path, Trained]:
    """An adapter far from its beginning, without an optimizer."""
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").float().eval()
    model = adapted(plain, **options).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    return folder, Trained(folder, model, tokenizer)


def losses(run: Trained) -> list[float]:
    with torch.no_grad():
        return [float(run.loss(run.model, e)) for e in CANDIDATES]


def scores(folder: Path, estimator: str, told: Told | None = None, **options: Any) -> np.ndarray:
    student = load_student(models.resolve(str(folder)), StudentSettings(told=told or Told()))
    context = Context(
        student=student, reference=REFERENCES, warmup=LEARNT, scratch=folder / "x", seed=0
    )
    method = registry.build(estimator, options)
    return as_scores(method.prepare(context)(CANDIDATES), len(CANDIDATES)).value


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_has_the_losses_and_gradients_of_the_adapted_model(
    kind: str, base: Path, tmp_path: Path
) -> None:
    folder, run = written(base, tmp_path / "adapter", **KINDS[kind])
    student = load_student(models.resolve(str(folder)))
    with torch.no_grad():
        ours = testing.loss_of_each(student, CANDIDATES).tolist()
    assert ours == pytest.approx(losses(run), rel=1e-5)
    assert all(weight.requires_grad for weight in student.model.parameters())
    # The gradient by a weight that the adapter changes is that by its own delta.
    products = scores(folder, "gradient_dot")
    models.save(student.model, student.tokenizer, tmp_path / "whole")
    assert scores(tmp_path / "whole", "loss") == pytest.approx(scores(folder, "loss"), rel=1e-6)
    assert scores(tmp_path / "whole", "gradient_dot") == pytest.approx(products, rel=1e-5)
    assert np.ptp(products) > 0


def test_a_trainers_adapter_is_scored_in_its_own_weights(lora: Trained) -> None:
    right = lora.influences(CANDIDATES, REFERENCES, rate=1e-2)
    assert scores(lora.folder, "exact") == pytest.approx(right, abs=3e-6)
    assert np.ptp(right) > 1e-4
    student = load_student(models.resolve(str(lora.folder)))
    names = {
        f"base_model.model.{n}" for n, p in student.model.named_parameters() if p.requires_grad
    }
    assert names == set(lora.state)
    assert f"{len(names)} of " in student.history.trained
    with torch.no_grad():
        ours = testing.loss_of_each(student, CANDIDATES).tolist()
    assert ours == pytest.approx(losses(lora), rel=1e-5)


@pytest.mark.parametrize("method", ["less", "first_order", "adam_jvp", "gradient_dot", "datainf"])
def test_methods_take_an_adapters_own_weights(method: str, lora: Trained) -> None:
    found = scores(lora.folder, method)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0


def test_gradients_of_an_adapter_are_by_its_own_weights(lora: Trained) -> None:
    weights = [p for n, p in lora.model.named_parameters() if n in lora.state]
    for weight in weights:
        weight.requires_grad_(True)

    def gradient(examples: Any) -> torch.Tensor:
        mean = torch.stack([lora.loss(lora.model, e) for e in examples]).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(mean, weights)]).double()

    reference = gradient(REFERENCES)
    right = [float(reference @ gradient([c])) for c in CANDIDATES]
    assert scores(lora.folder, "gradient_dot") == pytest.approx(right, rel=1e-4)


def test_an_adapter_with_moments_can_be_merged_instead(lora: Trained) -> None:
    told = Told(adapter="merge")
    with pytest.raises(UserError, match="moments are an adapter's"):
        scores(lora.folder, "exact", told)
    merged = scores(lora.folder, "gradient_dot", told)
    assert merged != pytest.approx(scores(lora.folder, "gradient_dot"), rel=1e-2)
    assert scores(lora.folder, "loss", told) == pytest.approx(scores(lora.folder, "loss"), rel=1e-5)


@pytest.mark.parametrize("kind", ["tokens", "saved_tied"])
def test_embeddings_that_an_adapter_changes_alike_stay_tied(
    kind: str, base: Path, tmp_path: Path
) -> None:
    model = load_student(models.resolve(str(written(base, tmp_path / "a", **KINDS[kind])[0]))).model
    head = model.get_output_embeddings()
    assert head is not None
    assert head.weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings


@pytest.mark.parametrize("kind", ["layers", "embedding", "saved_both", "tokens", "saved_tied"])
def test_a_warm_up_of_an_adapter_trains_its_own_weights(
    kind: str, base: Path, tmp_path: Path
) -> None:
    folder, run = written(base, tmp_path / "adapter", **KINDS[kind])
    settings = {"warmup.learning_rate": RATE, "warmup.batch_size": 2}
    store = tmp_path / "store"
    found = score(
        student=folder,
        candidates=CANDIDATES,
        reference=REFERENCES,
        warmup=LEARNT,
        estimator="exact",
        settings=settings,
        store=store,
    )
    assert "AdamW after 2 steps" in found.attrs["hangs_on"][0]
    # By hand: the warm-up's two batches, then the step of each candidate.
    made = sorted(store.rglob("warmup.json"))[0].parent
    facts = json.loads((made / "warmup.json").read_text())
    assert json.loads((made / "adapter_config.json").read_text())["peft_type"] == "LORA"
    own = {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert {f"base_model.model.{n}" for n in facts["names"]} == own
    assert not (made / "model.safetensors").exists()
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = PeftModel.from_pretrained(plain, str(made), is_trainable=True).eval()
    state = torch.load(made / "optimizer.pt", weights_only=True)["state"]
    held = {
        f"base_model.model.{n}": {**state[i], "weight_decay": 0.0}
        for i, n in enumerate(facts["names"])
    }
    warmed = Trained(made, again, run.tokenizer, held)
    right = warmed.influences(CANDIDATES, REFERENCES, rate=facts["lr"])
    assert found["score"].to_numpy() == pytest.approx(right, abs=3e-6)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: (f / "adapter_config.json").write_text("{"), "settings of an adapter as JSON"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "settings of an adapter as JSON"),
        (
            lambda f: (f / "adapter_model.safetensors").rename(f / "other.safetensors"),
            "expected the adapter's weights as adapter_model.safetensors",
        ),
        (
            lambda f: (f / "adapter_config.json").write_text(
                json.dumps(
                    {
                        **json.loads((f / "adapter_config.json").read_text()),
                        "peft_type": "NEW_KIND",
                    }
                )
            ),
            "adapter that peft knows",
        ),
    ],
    ids=["broken", "list", "no weights", "unknown kind"],
)
def test_a_folder_that_is_no_whole_adapter_is_one_line(
    change: Callable[[Path], object], line: str, lora: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(lora.folder, folder, ignore=lambda *_: {"optimizer.pt"})
    change(folder)
    with pytest.raises(UserError, match=line):
        load_student(models.resolve(str(folder)))


def test_the_weights_under_an_adapter_are_counted_where_a_place_is_sought(lora: Trained) -> None:
    student = load_student(models.resolve(str(lora.folder)))
    sizes = {n: 4 * p.numel() for n, p in student.model.named_parameters()}
    own = sum(sizes[n] for n, p in student.model.named_parameters() if p.requires_grad)
    assert needed(student) == sum(sizes.values()) - own + 5 * own


@pytest.mark.parametrize("how", ["merge", "keep"])
def test_layers_that_an_adapter_repeats_and_transformers_cannot_run_are_one_line(
    how: Any, base: Path, tmp_path: Path
) -> None:
    folder, _ = written(base, tmp_path / "a", **KINDS["layers"], layer_replication=[[0, 2], [1, 2]])
    with pytest.raises(UserError, match=r"runs? (with the adapter|this model)") as told:
        load_student(models.resolve(str(folder)), StudentSettings(told=Told(adapter=how)))
    assert "\n" not in str(told.value)


def test_virtual_tokens_are_one_line(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "p"))
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "p")
    with pytest.raises(UserError, match="virtual tokens"):
        load_student(models.resolve(str(tmp_path / "p")))


def test_an_adapter_of_another_base_is_one_line(lora: Trained, tmp_path: Path) -> None:
    other = families.build("qwen2_base", tmp_path / "other", hidden_size=48)
    folder = tmp_path / "c"
    shutil.copytree(lora.folder, folder)
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(other)})
    )
    with pytest.raises(UserError, match="an adapter that fits its base model"):
        load_student(models.resolve(str(folder)))


def test_another_toolkit_gets_no_adapter(lora: Trained, tmp_path: Path) -> None:
    from influbench.foreign import toolkit

    student = load_student(models.resolve(str(lora.folder)))
    context = Context(
        student=student, reference=REFERENCES, warmup=LEARNT, scratch=tmp_path, seed=0
    )
    worker = toolkit.Worker("m", "t", "0", "u", tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"an adapter.*student\.adapter=merge"):
        toolkit.scorer(worker, context, {}, min_share=1.0)
