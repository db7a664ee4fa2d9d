"""A name becomes a model's folder with a digest; what is there already needs no torch for it.

A name is an embedded model (:mod:`influbench.models.embedded`), ``tiny`` or ``tiny:SEED``, a local
folder (a saved model, a Trainer checkpoint, a peft adapter) or a repository of the Hugging Face
hub; each may end in ``:bits=N`` (:mod:`influbench.models.rounding`) or ``:random=SEED``
(:mod:`influbench.models.redrawn`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from influbench import models
from influbench.data.records import ModelRef
from influbench.errors import UserError
from influbench.models import cache, redrawn, rounding, sources
from influbench.models.embedded import PACKAGED, is_embedded, resolve_embedded
from influbench.models.quiet import save

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDED = frozenset({*PACKAGED, "tiny"})
"""Names that need no hub (``tiny:SEED`` too)."""


def resolve(name: str, revision: str | None = None) -> ModelRef:
    """Finds a model and makes it a folder: converted once, or fetched once, or where it is.

    Raises:
        UserError: there is no such model, or its package is missing.
    """
    for derived in (rounding, redrawn):
        plain, number = derived.split(name)
        if number is not None:
            base, title = resolve(plain, revision), f"{Path(plain).name}-{name.rpartition(':')[2]}"
            change = functools.partial(derived.change, number=number)
            return _derived(base, title, derived.identity(base.digest, number), change)
    folder = Path(name).expanduser()
    if not is_embedded(name) and not folder.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f"model '{name}': expected a folder with a model, there is none")
        return sources.fetch(name, revision)
    if revision is not None:
        raise UserError(
            f"model '{name}' is not a hub repository: expected no revision, got '{revision}'"
        )
    if is_embedded(name):
        return resolve_embedded(name)
    base = sources.adapter_base(folder)
    return sources.local(folder, base and resolve(*base))


def _derived(
    base: ModelRef, name: str, identity: str, change: Callable[[PreTrainedModel], PreTrainedModel]
) -> ModelRef:
    def make(folder: Path) -> None:
        loaded = models.load(base, device="cpu")
        save(change(loaded.model), loaded.tokenizer, folder)

    return ModelRef(path=str(cache.made(name, identity, make)), digest=identity)
