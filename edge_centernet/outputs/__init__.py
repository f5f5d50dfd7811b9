"""Where results go: records, annotated images, MQTT, webhooks, pictures of events, Prometheus, the live page.

`Output` is what each of them implements; docs/extending.md adds a new one step by step.
"""

from __future__ import annotations

from typing import Protocol

from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Snapshot


class Output(Protocol):
    """What the detection loop calls, on its own thread: every method must return at once."""

    def update(self, snapshot: Snapshot) -> None:
        """Take a new result."""

    def waiting(self, capture: CaptureState) -> None:
        """Take the state of a source that has given no frame for half a second."""

    def close(self) -> None:
        """Finish: nothing more will come."""


class Silent:
    """Base of outputs that have nothing to report while a source is silent, or nothing to close."""

    def waiting(self, capture: CaptureState) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
