"""What every output offers to the detection loop. A new one is a class that does this: docs/extending.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge_centernet.sources.frame import CaptureState
from edge_centernet.tracking.state import Snapshot


class Output(Protocol):
    """What the detection loop calls, on its own thread: it must return at once."""

    def update(self, snapshot: Snapshot) -> None:
        """A new result."""

    def waiting(self, capture: CaptureState) -> None:
        """No result for half a second: how the source is doing."""

    def close(self) -> None:
        """Nothing more will come."""


class Silent:
    """An output that has nothing to say while a source is silent."""

    def waiting(self, capture: CaptureState) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Hooks:
    """An output made of functions."""

    def __init__(
        self,
        update: Callable[[Snapshot], None],
        waiting: Callable[[CaptureState], None] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """waiting, close: None where there is nothing to do."""
        self.update = update
        self.waiting = waiting or _ignore
        self.close = close or _nothing


def _ignore(capture: CaptureState) -> None:
    pass


def _nothing() -> None:
    pass
