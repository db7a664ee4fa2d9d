"""Configurations: frozen, no unknown fields, a hash of what matters; settings by dotted name.

What a user writes (``--set KEY=VALUE``, a YAML file, keyword arguments) becomes a tree of plain
values, and :func:`checked` makes a configuration of it or says in one line what is wrong.
"""

from __future__ import annotations

import copy
import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from influbench.errors import UserError
from influbench.files import NOT_YAML, digest, yaml_value

C = TypeVar("C", bound="Config")
Tree = dict[str, Any]
"""Settings as YAML has them."""


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator that is seeded takes: numpy's and transformers' know no more and no sign."""


def transport(default: Any, description: str = "", **limits: Any) -> Any:
    """A field that cannot change the answer (chunk sizes, paths …): left out of the hash."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"transport": True},
        **limits,
    )


def seldom(default: Any, description: str = "", **limits: Any) -> Any:
    """A field that is left out of the hash at its default, so that adding it changed no hash."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"seldom": True},
        **limits,
    )


class Config(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,  # JSON has no word for them: neither a key nor a result could be made
    )

    @field_validator("*", mode="before")
    @classmethod
    def _a_truth_is_no_number(cls, value: Any, told: ValidationInfo) -> Any:
        """``true`` and ``off`` are not 1 and 0, for which pydantic would take them."""
        parts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(part, bool) for part in parts):
            kinds = _kinds(cls.model_fields[told.field_name or ""].annotation)
            if kinds & {int, float} and bool not in kinds:
                raise PydanticCustomError("number", "Input should be a number")
        return value

    def identity(self) -> dict[str, Any]:
        """The fields that can change an answer, as plain JSON types; nested configs included."""
        out: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and extra.get("transport"):
                continue
            value = getattr(self, name)
            if isinstance(extra, dict) and extra.get("seldom") and value == info.default:
                continue
            out[name] = value.identity() if isinstance(value, Config) else _plain(value)
        return out

    def into(self, kind: type[C], **more: Any) -> C:
        """The same settings as a ``kind``: a stage's configuration, which has fields beside them.

        What holds for a whole run (seed, device, counts) is set once, and handed over in ``more``.
        """
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return kind(**own | more)

    def digest(self) -> str:
        """Content digest of :meth:`identity`."""
        return digest(json.dumps(self.identity(), sort_keys=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def _kinds(annotation: Any) -> set[type]:
    """The types that an annotation is made of."""
    own: set[type] = {annotation} if isinstance(annotation, type) else set()
    return own.union(*map(_kinds, get_args(annotation)))


def checked(kind: type[C], tree: Mapping[str, Any], where: str) -> C:
    """The configuration that a tree describes.

    Raises:
        UserError: one line: which setting, what was expected, what came.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        # A name that is wrong says more than the right one that is missing for it.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        path = [str(part) for part in first["loc"]]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            known = _fields(kind, path[:-1])
            close = difflib.get_close_matches(path[-1], known, n=2)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"expected one of {sorted(known)}"
            )
            raise UserError(f"{where}: there is no setting '{key}'; {hint}") from error
        raise UserError(
            f"{where}: setting '{key}': {first['msg']}, got {first['input']!r}"
            if key
            else f"{where}: {first['msg']}"
        ) from error


def from_settings(
    kind: type[C], given: Mapping[str, Any], where: str, overrides: Sequence[str] = ()
) -> C:
    """The configuration that settings by dotted name describe; None = not given.

    Args:
        kind: of the configuration.
        given: by dotted name.
        where: they come from, for error messages.
        overrides: ``key.subkey=value``, values in YAML, applied in order on top.

    Raises:
        UserError: see :func:`checked`.
    """
    tree: Tree = {}
    for key, value in given.items():
        if value is not None:
            assign(tree, key, value, where)
    for text in overrides:
        override(tree, text)
    return checked(kind, tree, where)


def override(
    tree: Tree, text: str, option: str = "--set", example: str = "scoring.estimator=trak"
) -> None:
    """Applies one ``key.subkey=value`` of a command's ``option``, the value in YAML.

    Raises:
        UserError: it is no such text, or a setting on the way has no parts.
    """
    key, found, value = text.partition("=")
    if not found or not key:
        raise UserError(f"{option} {text}: expected KEY=VALUE, for example {option} {example}")
    try:
        text.encode()
        found = _scalar(value)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{option} {key}: expected a text, got half of a character ({error.reason}): write it "
            "in UTF-8, or leave the escape out"
        ) from error
    assign(tree, key, found, f"{option} {text}")


def assign(tree: Tree, key: str, value: Any, where: str) -> None:
    """Sets one dotted key to a copy of ``value``; a table goes over the one that is there.

    Raises:
        UserError: a setting on the way has no parts.
    """
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"{where}: '{part}' is a single setting and has no parts")
    node.update(merged(node, {last: copy.deepcopy(value)}))


def merged(under: Tree, over: Tree) -> Tree:
    """The settings of ``over``, and those of ``under`` that it does not name.

    Options of an estimator belong together: they are those of ``over``, or those of ``under``.
    """
    out = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "options"
        out[key] = merged(out[key], value) if both else value
    return out


def read_yaml(path: Path) -> Tree:
    """The settings in a YAML file.

    Raises:
        UserError: no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"expected a YAML file at {path}: there is none")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset "
            f"{error.start}: save the file as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: expected a YAML file, cannot read it: {error.strerror}"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Tree:
    """The settings in a YAML text.

    Raises:
        UserError: it holds something else.
    """
    try:
        tree = copy.deepcopy(_loaded(text))
    except NOT_YAML as error:
        raise UserError(f"{where}: expected YAML, got: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(
            f"{where}: expected settings as 'key: value' lines, got {type(tree).__name__}"
        )
    return tree


@functools.lru_cache(maxsize=64)  # the runs of a study share their preset
def _loaded(text: str) -> Any:
    return yaml_value(text)


def _scalar(text: str) -> Any:
    try:
        value = yaml_value(text)
    except UnicodeEncodeError:  # half of a character
        raise
    except NOT_YAML:
        return text
    number = isinstance(value, str) and text[-1:].isdigit()  # YAML 1.1 reads 1e-5 as text
    try:
        return float(text) if number else value
    except ValueError:
        return value


def _fields(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    model = kind
    for part in path:
        if part not in model.model_fields:  # a place in a list, or a member of a union
            continue
        annotation = model.model_fields[part].annotation
        found = [t for t in (annotation, *get_args(annotation)) if _is_model(t)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
