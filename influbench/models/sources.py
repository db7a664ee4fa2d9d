"""Model folders, local or from the Hugging Face hub: what they must hold, and their digests."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Generator
from pathlib import Path

from influbench.data.records import ModelRef
from influbench.errors import UserError, of_the_machine
from influbench.files import digest
from influbench.models.embedded import PACKAGED, file_sha256
from influbench.store.letting_go import refuse

ADAPTER = "adapter_config.json"
PATTERNS = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.jinja"),
    *("tokenizer.model", "vocab.*", "merges.txt", ADAPTER),
)
"""The files that make up a model: fetched from the hub, covered by a folder's digest."""


def adapter_base(folder: Path) -> tuple[str, str | None] | None:
    """Name and revision of the model that a peft adapter belongs to; None for other folders."""
    path = folder / ADAPTER
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        name = facts.get("base_model_name_or_path")
    except (AttributeError, ValueError) as error:
        raise UserError(f"{path}: expected settings of an adapter as JSON ({error})") from error
    if not name:
        raise UserError(
            f"{path}: expected base_model_name_or_path to name the adapter's base model"
        )
    return name, facts.get("revision")


def local(folder: Path, base: ModelRef | None) -> ModelRef:
    """A local folder as a reference; its digest covers weights, tokenizer and config bytes.

    Args:
        folder: the model or adapter.
        base: the adapter's base model, whose digest is then part of the identity.

    Raises:
        UserError: it does not hold a model.
    """
    _check(folder)
    found = sorted({p for pattern in PATTERNS for p in folder.glob(pattern) if p.is_file()})
    facts = [(path.name, file_sha256(path)) for path in found]
    identity = digest(json.dumps([facts, base and base.digest]))
    return ModelRef(path=str(folder.resolve()), digest=identity)


def fetch(name: str, revision: str | None) -> ModelRef:
    """A snapshot of a hub repository; its digest covers repository and commit.

    Raises:
        UserError: not found, not reachable, or without safetensors weights.
    """
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    pinned = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    try:
        try:
            # A commit never changes: what is here already needs no network.
            path = snapshot_download(
                name, revision=revision, allow_patterns=list(PATTERNS), local_files_only=pinned
            )
        except FileNotFoundError:
            if not pinned:
                raise
            path = snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS))
    except (OSError, HFValidationError, httpx2.HTTPError) as error:
        at = f" at revision '{revision}'" if revision else ""
        names = [*sorted(PACKAGED), "tiny"]
        close = difflib.get_close_matches(name.lower().rpartition("/")[2], names, n=1)
        hint = f"; did you mean the embedded '{close[0]}'?" if close else ""
        raise UserError(
            f"model '{name}'{at}: expected an embedded model ({', '.join(names)}), a folder, or a "
            f"hub repository within reach{hint} ({type(error).__name__}: {first_line(error)})"
        ) from error
    folder = Path(path)
    _check(folder)
    return ModelRef(path=str(folder), digest=digest(f"{name}@{folder.name}"))


@contextlib.contextmanager
def expected(what: str, where: Path) -> Generator[None]:
    """Around a library that reads a user's model: whatever it raises is told in one line.

    Damaged files make transformers, tokenizers, safetensors and peft raise errors of any type.

    Raises:
        UserError: ``what`` cannot be read; where memory or a disk is full, that error itself.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if of_the_machine(error):
            raise
        told = why(error)
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise UserError(
            f"{where}: expected {what}: {kind}{told}; if the file is damaged, copy or save the "
            "model again"
        ) from error


def why(error: Exception) -> str:
    """The reason in one line; code of a model's own is never run, whatever the library advises."""
    if "trust_remote_code" in str(error):
        return (
            "it needs Python code of its own, which influbench does not run: take a model of a "
            "family that transformers has"
        )
    return first_line(error)


def first_line(error: Exception) -> str:
    """The first line of an error's message, for messages of one line."""
    return next(iter(str(error).strip().splitlines()), "")


def _check(folder: Path) -> None:
    has = (folder / "config.json").is_file() or (folder / ADAPTER).is_file()
    if not has:
        raise UserError(
            f"{folder}: expected a model folder with config.json (or {ADAPTER}), there is none"
        )
    refuse(folder)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: expected weights as *.safetensors, there are none; "
            "load it with transformers and save it with save_pretrained"
        )
