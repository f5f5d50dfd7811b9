"""One detector in a process of its own, so that its memory is its own: JSON lines in, JSON lines out.

First line: {"ours": model, "engine"} or {"family", "file", "engine"}, each with "cpu". Then {"images",
"threshold", "boxes"} any number of times: detects in the images one after the other and answers with the
milliseconds of each step, and the detections where boxes is true. An empty line or the end asks for the peak
of its memory and ends it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_centernet.bench.resources import peak_rss_mb
from edge_centernet.detections import Detections
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.imageio import Image, read_image

Detect = Callable[[Image, float], tuple[Detections, dict[str, float]]]
STAGES = ("preprocess", "inference", "decode")


def ours(model: str, engine: str) -> tuple[Detect, dict[str, Any]]:
    """A shipped model through the package's own pipeline."""
    from edge_centernet.detector import Detector
    from edge_centernet.runtimes import first_candidate, open_runtime

    runtime = open_runtime(*first_candidate(model, engine), threads=1)
    detectors: dict[float, Detector] = {}

    def detect(image: Image, threshold: float) -> tuple[Detections, dict[str, float]]:
        if threshold not in detectors:
            detectors[threshold] = Detector(runtime, threshold=threshold, max_detections=100)
        return detectors[threshold].detect_timed(image)

    spec = runtime.manifest.model
    return detect, {"classes": list(spec.classes), "input": [spec.height, spec.width]}


def theirs(family: str, file: Path, engine: str) -> tuple[Detect, dict[str, Any]]:
    """A peer through its adapter."""
    from edge_centernet.peers.families import PeerDetector

    peer = PeerDetector(family, file, engine, threads=1)
    return peer.detect_timed, {"classes": list(peer.classes), "input": [peer.height, peer.width]}


def main() -> None:
    """See the module docstring."""
    request = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {request["cpu"]})
    try:
        if "ours" in request:
            detect, about = ours(request["ours"], request["engine"])
        else:
            detect, about = theirs(request["family"], Path(request["file"]), request["engine"])
    except EdgeCenterNetError as error:
        answer({"error": str(error)})
        return
    answer(about)
    for line in sys.stdin:
        if not line.strip():
            break
        answer(work(detect, json.loads(line)))
    answer({"peak_rss_mb": round(peak_rss_mb(), 1)})


def work(detect: Detect, request: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry for each image; reading it is not timed."""
    rows = []
    for path in request["images"]:
        image = read_image(path)
        found, ms = detect(image, request["threshold"])
        boxes = [array.tolist() for array in (found.xyxy, found.score, found.class_id)]
        rows.append({"ms": ms, "found": boxes if request["boxes"] else None})
    return rows


def answer(content: Any) -> None:
    """One line."""
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main()
