import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError


def copy_of(ref: ModelRef, folder: Path) -> Path:
    shutil.copytree(ref.path, folder)
    return folder


def test_a_folder_digest_covers_the_model_and_nothing_else(
    tiny_ref: ModelRef, tmp_path: Path
) -> None:
    folder = copy_of(tiny_ref, tmp_path / "a")
    ref = models.resolve(str(folder))
    assert Path(ref.path) == folder
    assert models.resolve(str(copy_of(tiny_ref, tmp_path / "b"))).digest == ref.digest
    for name in ("optimizer.pt", "trainer_state.json", "README.md"):
        (folder / name).write_text("x")
    assert models.resolve(str(folder)).digest == ref.digest
    for name in ("tokenizer.json", "config.json", "chat_template.jinja"):
        before = models.resolve(str(folder)).digest
        (folder / name).write_text((folder / name).read_text() + " ")
        assert models.resolve(str(folder)).digest != before, name
    before = models.resolve(str(folder)).digest
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert models.resolve(str(folder)).digest != before


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a model folder with config\.json"):
        models.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"expected weights as \*\.safetensors"):
        models.resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/no/such"])
def test_a_missing_folder_is_not_taken_for_a_hub_name(name: str) -> None:
    with pytest.raises(UserError, match="expected a folder with a model, there is none"):
        models.resolve(name)


def test_an_unreachable_hub_names_the_alternatives() -> None:
    with pytest.raises(UserError, match="did you mean the embedded 'smollm2-135m-instruct'") as got:
        models.resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert "\n" not in str(got.value)
    with pytest.raises(UserError, match=r"gemma3-270m, .*, tiny\), a folder"):
        models.resolve("no name")


def test_a_hub_snapshot_is_known_by_name_and_commit(
    tiny_ref: ModelRef, tmp_path: Path, monkeypatch
) -> None:
    commit = "a" * 40
    asked: list[dict] = []

    def download(name: str, **options) -> str:
        asked.append(options)
        if options.get("local_files_only"):
            raise FileNotFoundError
        return str(tmp_path / commit)

    copy_of(tiny_ref, tmp_path / commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    by_branch = models.resolve("someone/model")
    by_commit = models.resolve("someone/model", commit)
    assert by_branch == by_commit
    assert models.resolve("other/model").digest != by_commit.digest
    assert "*.safetensors" in asked[0]["allow_patterns"]
    assert [options.get("local_files_only") for options in asked[:3]] == [False, True, None]


def test_a_revision_without_a_hub_name_is_refused(tiny_ref: ModelRef) -> None:
    for name in ("tiny", tiny_ref.path):
        with pytest.raises(UserError, match="expected no revision, got 'main'"):
            models.resolve(name, "main")
