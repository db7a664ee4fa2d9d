"""Which weight is which in an optimizer's state, whose entries have numbers and no names.

A Trainer numbers the weights that it trains: first those with weight decay, then the others, each
part in the model's order. Which have no decay changed over its versions, and nothing in a
checkpoint says which weights were frozen; so names are tried by the rules, and taken where the
sizes of the groups and the shapes of the moments leave one way only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

Shape = tuple[int, ...]

MOST = 64
"""Choices that are looked at; as many are too many to tell apart."""


class UnclearError(Exception):
    """Why the numbers cannot be given names, as the end of a sentence."""


@dataclass(frozen=True)
class Entry:
    """One weight in the state."""

    shape: Shape | None
    """None where nothing is kept of it."""
    idle_rows: Callable[[], bool]
    """Whether some of its rows never had a gradient, as those of an input embedding do whose tokens
    never came, and those of an output embedding do not."""


def names(
    model: PreTrainedModel, groups: Sequence[Sequence[Entry]], trained: Sequence[str]
) -> list[list[str]]:
    """Names of the entries, group by group.

    Args:
        model: whose weights they are.
        groups: the optimizer's.
        trained: names of the weights that may be in it, in the model's order.

    Raises:
        UnclearError: no way to give the names, or several.
    """
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    ways = list(_partitions(model, trained, len(groups)))
    for parts in ways:  # everything was trained: the plain case
        if all(map(_all_fit, parts, groups, [shapes] * len(groups))):
            return parts
    found = [way for parts in ways if (way := _only_way(model, parts, groups, shapes))]
    distinct = {tuple(map(tuple, way)) for way in found}
    if len(distinct) > 1:
        raise UnclearError(_several(groups, len(shapes)))
    if not distinct:
        sizes = " + ".join(str(len(group)) for group in groups)
        raise UnclearError(
            f"it holds {sizes} weights, whose numbers and shapes fit this model's "
            f"{len(trained)} in no order that a Trainer gives: it belongs to another model, or to "
            "a training with parameter groups of its own"
        )
    return found[0]


def _only_way(
    model: PreTrainedModel,
    parts: Sequence[Sequence[str]],
    groups: Sequence[Sequence[Entry]],
    shapes: Mapping[str, Shape],
) -> list[list[str]] | None:
    """The one choice of names from ``parts`` that fits the groups; None where none does.

    Raises:
        UnclearError: several do.
    """
    chosen: list[list[str]] = []
    options = [_picks(p, g, shapes) for p, g in zip(parts, groups, strict=True)]
    if not all(options):
        return None
    for own, group in zip(options, groups, strict=True):
        told_apart = 1 < len(own) < MOST
        left = [pick for pick in own if _plausible(model, pick, group)] if told_apart else own
        if len(left) > 1:
            raise UnclearError(_several(groups, len(shapes)))
        if not left:
            return None
        chosen += left
    return chosen


def _several(groups: Sequence[Sequence[Entry]], weights: int) -> str:
    count = sum(map(len, groups))
    return (
        f"it holds {count} of the model's {weights} weights, and several choices of them have "
        "these shapes: say which were trained, for example --set "
        r"student.trained='layers\.[1-9]|lm_head'"
    )


def _partitions(
    model: PreTrainedModel, trained: Sequence[str], groups: int
) -> Iterator[list[list[str]]]:
    """The trained names in groups, by each rule that there was."""
    if groups == 1:
        yield [list(trained)]
    if groups != 2:
        return
    from transformers import Trainer  # a second of imports, which few checkpoints need

    layer_norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for own, _ in module.named_parameters(recurse=False)
    }
    no_trainer: Any = None  # which the method does not look at
    rules: list[set[str]] = [
        set(Trainer.get_decay_parameter_names(no_trainer, model)),
        {n for n in trained if "bias" not in n and n not in layer_norms},  # transformers < 4.47
        {n for n in trained if not re.search(r"bias|LayerNorm\.weight", n)},  # many scripts
        {n for n in trained if "bias" not in n},
    ]
    for decayed in rules:
        yield [[n for n in trained if n in decayed], [n for n in trained if n not in decayed]]


def _all_fit(part: Sequence[str], group: Sequence[Entry], shapes: Mapping[str, Shape]) -> bool:
    return len(part) == len(group) and all(
        e.shape in (None, shapes[n]) for n, e in zip(part, group, strict=True)
    )


def _picks(
    part: Sequence[str], group: Sequence[Entry], shapes: Mapping[str, Shape]
) -> list[list[str]]:
    """Choices of names from ``part``, in its order, with the group's shapes; at most MOST."""
    # reach[j][i]: the entries from i on find names from j on.
    fits = [[e.shape in (None, shapes[n]) for e in group] for n in part]
    reach = [[False] * len(group) + [True] for _ in range(len(part) + 1)]
    for j in range(len(part) - 1, -1, -1):
        for i in range(len(group)):
            reach[j][i] = reach[j + 1][i] or (fits[j][i] and reach[j + 1][i + 1])
    found: list[list[str]] = []

    def go(j: int, i: int, taken: list[str]) -> None:
        while i < len(group) and len(found) < MOST:
            while j < len(part) and not (fits[j][i] and reach[j + 1][i + 1]):
                j += 1
            if j == len(part):
                return
            if reach[j + 1][i]:
                go(j + 1, i, list(taken))  # without this name
            taken, j, i = [*taken, part[j]], j + 1, i + 1
        if i == len(group):
            found.append(taken)

    go(0, 0, [])
    return found


def _plausible(model: PreTrainedModel, pick: Sequence[str], group: Sequence[Entry]) -> bool:
    """Whether what is taken for an untied embedding has moments like one."""
    named = {id(p): n for n, p in model.named_parameters()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    into = named.get(id(getattr(embedding, "weight", None)))
    outof = named.get(id(getattr(head, "weight", None)))
    if into == outof:
        return True
    expected = {into: True, outof: False}
    return all(
        entry.shape is None or name not in expected or entry.idle_rows() == expected[name]
        for name, entry in zip(pick, group, strict=True)
    )
