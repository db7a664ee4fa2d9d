"""``NAME:bits=N``: what rounding does to weights, and that the name is one like any other."""

from pathlib import Path

import pytest
import torch
from torch import nn

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models import redrawn, rounding


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_a_group_has_its_levels_and_no_weight_moves_by_more_than_half_a_step(bits: int):
    weight = torch.randn(5, 80, generator=torch.Generator().manual_seed(0))
    found = rounding.rounded(weight, bits)
    for start in (0, 32, 64):  # the last group is short
        part, ours = weight[:, start : start + 32], found[:, start : start + 32]
        step = (part.amax(1) - part.amin(1)) / (2**bits - 1)
        assert ((ours - part).abs().amax(1) <= step / 2 * 1.0001).all()
        assert all(len(row.unique()) <= 2**bits for row in ours)
        torch.testing.assert_close(ours.amin(1), part.amin(1))
        torch.testing.assert_close(ours.amax(1), part.amax(1))


def test_rounding_what_is_rounded_changes_nothing_and_equal_weights_stay():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    once = rounding.rounded(weight, 3)
    torch.testing.assert_close(rounding.rounded(once, 3), once)
    assert torch.equal(rounding.rounded(torch.full((2, 32), 0.7), 3), torch.full((2, 32), 0.7))


def test_only_linear_layers_below_the_head_are_rounded_and_the_embeddings_stay():
    whole = models.load(models.resolve("tiny"), device="cpu").model
    ours = models.load(models.resolve("tiny:bits=2"), device="cpu").model
    head = whole.get_output_embeddings()
    linear = {
        f"{name}.weight"
        for name, module in whole.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    weights = dict(whole.named_parameters())
    moved = {n for n, w in ours.named_parameters() if not torch.equal(w, weights[n])}
    assert moved == linear
    assert len(linear) == 14  # seven in each of two layers
    top = ours.get_output_embeddings()
    assert top is not None
    assert top.weight is ours.get_input_embeddings().weight


def test_the_same_name_is_the_same_model_made_once_and_the_digest_says_of_what():
    first = models.resolve("tiny:bits=3")
    made = (Path(first.path) / "model.safetensors").stat().st_mtime_ns
    assert models.resolve("tiny:bits=3") == first
    assert (Path(first.path) / "model.safetensors").stat().st_mtime_ns == made
    others = [models.resolve(n) for n in ("tiny", "tiny:bits=4", "tiny:1:bits=3")]
    assert len({first.digest, *(other.digest for other in others)}) == 4


def test_a_folder_may_be_rounded_and_another_folder_with_the_same_name_is_another_model(
    tmp_path: Path,
):
    refs: list[ModelRef] = []
    for seed in (1, 2):
        folder = tmp_path / str(seed) / "model"
        models.save(*models.load(models.resolve(f"tiny:{seed}"), device="cpu"), folder)
        refs.append(models.resolve(f"{folder}:bits=3"))
    assert refs[0].digest != refs[1].digest
    assert refs[0].path != refs[1].path
    models.load(refs[1], device="cpu")


@pytest.mark.parametrize("name", ["tiny:bits=0", "tiny:bits=9", "tiny:bits=three", ":bits=3"])
def test_bits_that_make_no_sense_are_refused_with_the_form_expected(name: str):
    with pytest.raises(UserError, match=r"expected NAME:bits=N with N from 1 to 8") as caught:
        models.resolve(name)
    assert "\n" not in str(caught.value)


def test_rounding_a_model_that_does_not_exist_names_that_model():
    with pytest.raises(UserError, match=r"model '\./nothing': expected a folder"):
        models.resolve("./nothing:bits=3")


def test_weights_drawn_anew_keep_shapes_and_ties_and_hang_on_the_seed_alone():
    whole = models.load(models.resolve("tiny"), device="cpu").model
    state = torch.get_rng_state()
    refs = [models.resolve(f"tiny:random={seed}") for seed in (0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    first, second = (models.load(ref, device="cpu").model for ref in refs)
    weights = dict(whole.named_parameters())
    assert {n: w.shape for n, w in first.named_parameters()} == {
        n: w.shape for n, w in weights.items()
    }
    name = "model.layers.0.mlp.up_proj.weight"
    drawn = [dict(m.named_parameters())[name] for m in (whole, first, second)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    top = first.get_output_embeddings()
    assert top is not None
    assert top.weight is first.get_input_embeddings().weight
    again = redrawn.change(whole, 0)
    assert torch.equal(dict(again.named_parameters())[name], drawn[1])
    with pytest.raises(UserError, match="expected NAME:random=SEED with a whole number"):
        models.resolve("tiny:random=x")
