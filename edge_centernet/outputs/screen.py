"""What a run over images or a video shows on a terminal: a line for each of few images, else a bar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_centernet.classes import counted
from edge_centernet.outputs import Silent
from edge_centernet.progress import Progress, unseen
from edge_centernet.tracking.state import Snapshot

if TYPE_CHECKING:
    from edge_centernet.sources.files import Source

_MOST_LINES = 50  # of more images a bar shows how far it is, and files hold what was found


@dataclass(frozen=True)
class Screen:
    """Where it is shown.

    line: gets what was found in an image; None where records are printed instead. progress: draws the bars.
    """

    line: Callable[[str], None] | None = None
    progress: Progress = unseen


class ScreenOutput(Silent):
    """Shows how far a source of files is. A terminal that is held by Ctrl-S holds the run as well."""

    def __init__(self, screen: Screen, classes: Sequence[str], source: Source) -> None:
        """classes: names by class_id. source: what is read."""
        self._screen, self._classes, self._source = screen, classes, source
        self._few = source.fps is None and source.count <= _MOST_LINES
        self._title = "Images" if source.fps is None else "Frames"
        self._done = 0

    def update(self, snapshot: Snapshot) -> None:
        """Show one more."""
        self._done += 1
        if not self._few:
            done = self._done + self._source.skipped
            if done <= self._source.count:  # what a video's header says may be missing or too small
                self._screen.progress(self._title, done, self._source.count)
        elif self._screen.line is not None:
            self._screen.line(describe(snapshot, self._classes))


def describe(snapshot: Snapshot, classes: Sequence[str]) -> str:
    """What was found in an image: "photo.jpg: 2 persons, 1 cat, 14 ms"."""
    counts = Counter(classes[class_id] for class_id in snapshot.found.class_id)
    found = [counted(count, name) for name, count in counts.most_common()] or ["nothing found"]
    ms = sum(snapshot.ms.values())
    return f"{snapshot.frame.source}: {', '.join(found)}, {ms:.0f} ms"
