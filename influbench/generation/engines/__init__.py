"""What writes text for a teacher or a student: Hugging Face here, or a completion server."""

from __future__ import annotations

from influbench.generation.engines.billing import purse
from influbench.generation.engines.endpoint import Endpoint
from influbench.generation.engines.engine import Engine, InProcess
from influbench.generation.engines.opening import opened
from influbench.generation.engines.server import Server

__all__ = ["Endpoint", "Engine", "InProcess", "Server", "opened", "purse"]
