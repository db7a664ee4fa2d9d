"""What writes text for a teacher: Hugging Face in this process, or a completion server."""

from __future__ import annotations

from influbench.generation.engines.engine import Engine, InProcess
from influbench.generation.engines.server import Server, ServerSettings

__all__ = ["Engine", "InProcess", "Server", "ServerSettings"]
