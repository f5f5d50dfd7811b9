"""What the tests of live outputs share: results of a real photo, as a detection loop makes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edge_centernet
from edge_centernet.detections import Detections
from edge_centernet.imageio import read_image
from edge_centernet.outputs.annotate import Overlay
from edge_centernet.outputs.web.server import WebServer
from edge_centernet.outputs.web.view import View
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.tracking.state import Snapshot, Tracks

CLASSES = ("person", "cat")
PHOTO = read_image(Path(edge_centernet.__file__).parent / "assets" / "sample.jpg")  # (512, 1126, 3)
FOUND = Detections(
    np.array([[400, 60, 640, 480], [700, 250, 1000, 470]]), np.array([0.9, 0.8]), np.array([0, 1])
)
TRACKS = Tracks(np.array([3, 17]), FOUND, np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
MS = {"preprocess": 2.1, "inference": 31.4, "decode": 0.4}


def snapshot(number: int = 0) -> Snapshot:
    """A result at 30 frames a second, captured now: the photo with a green disc that moves."""
    image = PHOTO.copy()
    cv2.circle(image, (20 + 7 * number % 1000, 256), 20, (0, 255, 0), cv2.FILLED)
    frame = Frame("camera 0", number, image, number / 30)
    return Snapshot(frame, FOUND, MS, 41.5, 29.7, CaptureState("live", frames=number))


class OneCamera(WebServer):
    """The server of a single camera, which takes its results itself. options: of `View` or `WebServer`."""

    def __init__(self, address: str, **options: Any) -> None:
        """Nothing listens before `start`."""
        own = {name: options.pop(name) for name in ("token", "metrics") if name in options}
        view = View("door", **{"classes": CLASSES, "overlay": Overlay(CLASSES), **options})
        super().__init__(address, [view], **own)
        self.update = view.update


@contextmanager
def feed(
    give: Callable[[Snapshot], None], change: Callable[[Snapshot], Snapshot] = lambda same: same
) -> Iterator[None]:
    """Give a new result thirty times a second, from another thread, while the block runs."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.wait(1 / 30):
            number += 1
            give(change(snapshot(number)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
