"""One configuration in a process of its own: it starts, and then obeys commands, line by line.

    python -m edge_centernet.bench.worker TASK

TASK is a JSON object: engine, path, threads, device, cpus, source, camera, streamed (video or camera). Each
line on standard input is a command, {"do": "warm_up" | "turn" | "precisions", ...}; each answer is a line on
standard output, {"failed": ...} where it could not be done. Between commands the process waits and computes
nothing. It ends with its standard input.

Nothing heavy is imported at the top: how long that takes is part of what is measured.
"""

from __future__ import annotations

import time

_BEGUN = time.monotonic()  # before anything else

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from itertools import cycle  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

Words = dict[str, Any]

_WINDOW_S, _WINDOW_FRAMES = 0.3, 5  # of the warm-up: so long, and so many frames at least
_AGREE = 0.03  # two windows are alike if their medians differ by at most this share
_ALIKE = 2  # windows in a row that must be like the one before


class Worker:
    """The opened model and the images. `ready`: how long each step of the start took, and what computes."""

    def __init__(self, task: Words) -> None:
        """Start: what `detect` does up to the first detections, with a clock between the steps."""
        moments = {"begun": _BEGUN}
        from edge_centernet.bench import resources

        pinned = resources.pin(task["cpus"])
        # 1. Imports, the engine's among them.
        import cv2
        import numpy as np

        from edge_centernet.bench import feed
        from edge_centernet.decoder import BACKEND
        from edge_centernet.detector import Detector
        from edge_centernet.runtimes import ENGINES, open_runtime

        ENGINES[task["engine"]].load_adapter()
        moments["imports"] = time.monotonic()
        # 2. The model.
        self._path = Path(task["path"])
        self._runtime = open_runtime(self._path, task["engine"], task["threads"], task["device"])
        self._detector = Detector(self._runtime)
        moments["open"] = time.monotonic()
        # 3. The first image, and the first detections in it.
        self._feed = feed.Feed(task["source"], task["camera"])
        first = self._feed.first()
        moments["read"] = time.monotonic()
        found, ms = self._detector.detect_timed(first)
        moments["detect"] = time.monotonic()

        self._cpus, self._streamed = task["cpus"], task["streamed"]
        self._resources, self._run = resources, feed
        self._memory = 0.0
        self.ready: Words = {
            "moments": moments,
            "first_inference_ms": ms["inference"],
            "found": len(found),
            "pinned": pinned and resources.pin(self._cpus),  # again: the engine has started its threads
            "device": self._runtime.device,
            "precision": self._runtime.manifest.precision,
            "decoder": BACKEND,
            "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
        }

    def warm_up(self, at_most: float) -> Words:
        """Detect until the time for a frame has settled, `at_most` seconds; then count memory anew.

        It has settled when a few windows in a row have nearly the same median.
        """
        self._pictures = cycle(self._feed.pictures()[0])
        begin, before, alike = time.monotonic(), 0.0, 0
        while alike < _ALIKE and time.monotonic() - begin < at_most:
            turn = self._run.detect_pictures(self._detector, self._pictures, _WINDOW_S, _WINDOW_FRAMES)
            times = sorted(turn.ms[self._run.END_TO_END])
            now = times[len(times) // 2]
            alike = alike + 1 if before and abs(now / before - 1.0) <= _AGREE else 0
            before = now
        # The start's peak counts too, but what detecting takes in the long run is another figure.
        self._memory = self._resources.peak_rss_mb()
        steady = self._resources.forget_peak()
        return {
            "seconds": time.monotonic() - begin,
            "settled": alike >= _ALIKE,
            "rss_mb": self._memory,
            "steady": steady,
            "pinned": self._resources.pin(self._cpus),
        }

    def turn(self, seconds: float) -> Words:
        """Detect for so long: every frame's milliseconds, and the most memory so far."""
        if self._streamed:
            turn = self._run.detect_frames(self._detector, self._feed, seconds)
        else:
            turn = self._run.detect_pictures(self._detector, self._pictures, seconds)
        steady = self._resources.peak_rss_mb()
        return {**turn._asdict(), "steady_rss_mb": steady, "peak_rss_mb": max(steady, self._memory)}

    def precisions(self) -> Words:
        """In which precision the convolutions are computed, as `doctor` finds out.

        It takes memory that a measurement must not count, so a process that was asked measures nothing.
        """
        import numpy as np

        from edge_centernet.runtimes import executed_precision

        spec = self._runtime.manifest.input
        zeros = np.zeros(spec.shape, spec.dtype)
        return executed_precision.executed(self._runtime, self._path, zeros)._asdict()


def serve(task: Words, say: Callable[[Words], None]) -> None:
    """Start, say so, and answer commands until standard input ends."""
    worker = Worker(task)
    say(worker.ready)
    for line in sys.stdin:
        words = json.loads(line)
        say(getattr(worker, words.pop("do"))(**words))


def main(task: str) -> int:
    """Returns the exit status: 0, or 1 where something failed, which was said."""
    # Answers go where standard output went; whatever an engine prints there goes to standard error from now
    # on, so that it cannot disturb them.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(words: Words) -> None:
        print(json.dumps(words), file=out, flush=True)

    try:
        serve(json.loads(task), say)
    except BrokenPipeError:  # whoever asked has gone
        return 1
    except Exception as error:  # whatever it is: one line for the table
        from edge_centernet.doctor.probe import in_one_line

        say({"failed": in_one_line(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
