"""One thing that a machine has right or wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]
PAGE = "docs/doctor.md"


@dataclass(frozen=True)
class Finding:
    """id: the heading in docs/doctor.md. level: ok needs nothing, a warning works but not well, an error does not.

    found: what was seen. fix: a command to copy, or what to do in words; empty where there is nothing to do.
    """

    id: str
    level: Level
    title: str
    found: str
    fix: str = ""

    @property
    def docs(self) -> str:
        """Where it is explained."""
        return f"{PAGE}#{self.id}"

    def as_json(self) -> dict[str, str]:
        """Its fields and where it is explained."""
        return {
            "id": self.id,
            "level": self.level,
            "title": self.title,
            "found": self.found,
            "fix": self.fix,
            "docs": self.docs,
        }
