"""What every stage's configuration shares: frozen, no unknown fields, a hash of what matters."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from influbench.files import digest

C = TypeVar("C", bound="Config")


def transport(default: Any, description: str = "", **limits: Any) -> Any:
    """A field that cannot change the answer (chunk sizes, paths …): left out of the hash."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"transport": True},
        **limits,
    )


class Config(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The fields that can change an answer, as plain JSON types; nested configs included."""
        out: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and extra.get("transport"):
                continue
            value = getattr(self, name)
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
