import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, GPT2Config
from transformers.utils import logging

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models.quiet import quiet


def copy_of(ref: ModelRef, folder: Path) -> Path:
    shutil.copytree(ref.path, folder)
    return folder


def test_load_gives_an_eval_model_that_pads_apart_from_its_end(tiny_ref: ModelRef) -> None:
    model, tokenizer = models.load(tiny_ref, device="cpu")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert model.get_input_embeddings().padding_idx == 0
    head = model.get_output_embeddings()
    assert head is not None
    assert head.weight is model.get_input_embeddings().weight
    assert models.context_length(model) == models.context_length(model.config) == 8192
    assert tokenizer.padding_side == "left"
    assert all(p.requires_grad for p in model.parameters())


def test_eager_and_sdpa_agree(tiny_ref: ModelRef) -> None:
    eager = models.load(tiny_ref, attention="eager").model
    sdpa = models.load(tiny_ref, attention="sdpa").model
    assert eager.config._attn_implementation == "eager"
    assert sdpa.config._attn_implementation == "sdpa"
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(eager(ids).logits, sdpa(ids).logits)


def test_bfloat16_rounds_the_weights_but_not_the_rotary_angles(tiny_ref: ModelRef) -> None:
    model = models.load(tiny_ref, dtype="bfloat16").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.buffers()} == {torch.float32}
    exact = models.load(tiny_ref).model.get_parameter("model.embed_tokens.weight")
    got = model.get_parameter("model.embed_tokens.weight")
    assert torch.equal(got, exact.to(torch.bfloat16))


def test_saved_and_loaded_is_the_same(tiny_ref: ModelRef, tmp_path: Path) -> None:
    model, tokenizer = models.load(tiny_ref)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").add_(0.5)
    models.save(model, tokenizer, tmp_path / "out")
    again, same = models.load(models.resolve(str(tmp_path / "out")))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, again.get_parameter(name)), name
    assert same.get_vocab() == tokenizer.get_vocab()
    assert same.chat_template == tokenizer.chat_template
    assert (same.padding_side, same.pad_token, same.model_max_length) == (
        "left",
        "<|endoftext|>",
        8192,
    )


def test_missing_weights_are_refused_not_drawn_at_random(
    tiny_ref: ModelRef, tmp_path: Path
) -> None:
    folder = copy_of(tiny_ref, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 are missing .* first model\.layers\.1\.mlp\.up_proj"):
        models.load(models.resolve(str(folder)))


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("tokenizer.json", "expected a model with its tokenizer"),
        ("config.json", "expected a config.json that transformers knows"),
    ],
)
def test_a_broken_folder_is_a_one_line_error(
    tiny_ref: ModelRef, tmp_path: Path, file: str, match: str
) -> None:
    folder = copy_of(tiny_ref, tmp_path / "m")
    (folder / file).write_text('{"model_type": ')
    with pytest.raises(UserError, match=match) as caught:
        models.load(ModelRef(path=str(folder), digest=""))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage", [b"", b"null", b"[]", b"x", b"\xff\xfe\0", b'{"a": 1e999}', "cut", "dir"]
)
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_a_damaged_file_of_a_model_is_a_one_line_error(
    tiny_ref: ModelRef, tmp_path: Path, file: str, damage: bytes | str
) -> None:
    path = copy_of(tiny_ref, tmp_path / "m") / file
    whole = path.read_bytes()
    path.unlink()
    if damage == "dir":
        path.mkdir()
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    try:
        models.load(models.resolve(str(path.parent)))
    except UserError as error:
        line = str(error)
    else:
        line = f"{path.parent} is read without it"
        assert file == "tokenizer_config.json"  # transformers does without
    assert str(path.parent) in line
    assert "\n" not in line


def test_an_adapter_is_merged_into_its_base(tiny_ref: ModelRef, tmp_path: Path) -> None:
    base = copy_of(tiny_ref, tmp_path / "base")
    model, tokenizer = models.load(models.resolve(str(base)))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.normal_(generator=generator)
    ids = torch.arange(3, 40)[None]
    expected = adapted(ids).logits
    adapted.save_pretrained(str(tmp_path / "adapter"))

    ref = models.resolve(str(tmp_path / "adapter"))
    loaded = models.load(ref)
    torch.testing.assert_close(loaded.model(ids).logits, expected, rtol=0, atol=1e-4)
    plain = models.load(models.resolve(str(base))).model(ids).logits
    assert not torch.allclose(plain, expected, atol=0.1)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    half = models.load(ref, dtype="bfloat16").model
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in half.buffers()} == {torch.float32}

    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    assert models.resolve(str(tmp_path / "adapter")).digest != ref.digest


def test_an_adapter_that_lacks_weights_is_refused(tiny_ref: ModelRef, tmp_path: Path) -> None:
    model = models.load(tiny_ref).model
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path)
    with pytest.raises(UserError, match="an adapter that fits its base model"):
        models.load(models.resolve(str(tmp_path / "adapter")))
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="expected base_model_name_or_path"):
        models.resolve(str(tmp_path / "adapter"))


def test_an_encoder_pads_on_the_right(tiny_ref: ModelRef, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=259,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    models.save(BertModel(config), models.load_tokenizer(tiny_ref), tmp_path)
    model, tokenizer = models.load(models.resolve(str(tmp_path)))
    assert type(model).__name__ == "BertModel"
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("right", 32)


def test_loading_and_saving_print_nothing(tiny_ref: ModelRef, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from influbench import models\n"
        "model, tokenizer = models.load(models.resolve('tiny:9'))\n"
        "models.save(model, tokenizer, Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_quiet_puts_the_settings_back() -> None:
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with quiet():
        assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == 40
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_context_length_follows_the_architectures_own_name() -> None:
    assert models.context_length(GPT2Config(n_positions=77)) == 77
    from transformers import BloomConfig, MambaConfig, T5Config

    assert models.context_length(BloomConfig.from_dict({"seq_length": 2048})) == 2048
    assert models.context_length(MambaConfig()) > 100_000  # recurrent: nothing limits it
    with pytest.raises(UserError, match="'t5' states no max_position_embeddings"):
        models.context_length(T5Config())


def test_devices_and_dtypes_are_checked_by_name(tiny_ref: ModelRef, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.device_of("auto") == models.device_of("cpu") == "cpu"
    with pytest.raises(UserError, match="torch finds no CUDA here"):
        models.device_of("cuda:0")
    with pytest.raises(UserError, match="expected device auto, cpu, cuda"):
        models.device_of("gpu")
    with pytest.raises(UserError, match="expected dtype float32 or bfloat16, got 'fp16'"):
        models.load(tiny_ref, dtype="fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.device_of("auto") == "cuda"
    assert models.device_of("cuda:1") == "cuda:1"


def test_a_saved_folder_tells_nothing_of_this_machine(tiny_ref: ModelRef, tmp_path: Path) -> None:
    """Else its digest would differ between offline and online runs, and between folders."""
    copied = copy_of(tiny_ref, tmp_path / "elsewhere")
    digests = set()
    for number, ref in enumerate((tiny_ref, models.resolve(str(copied)))):
        model, tokenizer = models.load(ref)
        models.save(model, tokenizer, tmp_path / f"out{number}")
        text = (tmp_path / f"out{number}" / "tokenizer_config.json").read_text()
        assert "local" not in text
        digests.add(models.resolve(str(tmp_path / f"out{number}")).digest)
    assert len(digests) == 1
