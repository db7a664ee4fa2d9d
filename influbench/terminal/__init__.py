"""What a command shows: text that cannot act on the terminal, and progress."""

from __future__ import annotations

from influbench.terminal.escaping import cell, console, line, plain

__all__ = ["cell", "console", "line", "plain"]
