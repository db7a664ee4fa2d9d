"""The cap on the money that one command may spend."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Budget:
    """A spending cap in US dollars, shared by all that one command asks of paid servers."""

    limit: float | None = None
    spent: float = 0.0
    _reserved: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cap(self, limit: float | None) -> None:
        """Lowers the cap to ``limit``; None leaves it. Everyone who states one is heeded."""
        if limit is not None:
            self.limit = limit if self.limit is None else min(self.limit, limit)

    def reserve(self, key: str, most: float) -> bool:
        """Sets ``most`` aside for a request; False where it might exceed the cap."""
        with self._lock:
            held = sum(self._reserved.values())
            if self.limit is not None and self.spent + held + most > self.limit:
                return False
            self._reserved[key] = most
            return True

    def settle(self, key: str, money: float) -> None:
        """Replaces what was set aside by what the request cost (0 where it failed)."""
        with self._lock:
            self._reserved.pop(key, None)
            self.spent += money

    @property
    def waiting(self) -> bool:
        """Whether requests in flight may still give back some of what they reserved."""
        return bool(self._reserved)
