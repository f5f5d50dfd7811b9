#!/usr/bin/env python3
"""What a model computes on this machine, as JSON: run by an installed release's Python, here and on a board.

    probe.py MODEL.tflite PHOTO.jpg

Prints the machine, the engine, the self-test's verdict, a hash of each step of the way (decoded photo,
network input, the three heads), and the detections.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

import edge_centernet
from edge_centernet import decoder, selftest
from edge_centernet.detector import Detector
from edge_centernet.imageio import read_image
from edge_centernet.preprocess import prepare
from edge_centernet.runtimes import open_runtime
from edge_centernet.runtimes.selfcheck import version


def digest(array: np.ndarray) -> str:
    """Of the values, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def main() -> None:
    """Probe and print."""
    model, photo = map(Path, sys.argv[1:])
    image = read_image(photo)
    with closing(open_runtime(model)) as runtime:
        detector = Detector(runtime)
        classes = runtime.manifest.model.classes
        x, _ = prepare(image, runtime.manifest)
        heads = runtime.run(x)
        seen = {"photo": image, "input": x, **heads._asdict()}
        steps = {name: digest(values) for name, values in seen.items()}
        answer = runtime.run(selftest.test_input(runtime.manifest))
        wrong = selftest.problem(runtime.manifest, answer, version("tflite").split()[0])
        apart = {role: round(d, 3) for role, d in selftest.differences(runtime.manifest, answer).items()}
        found = detector.detect(image)
    record = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "edge_centernet": edge_centernet.__version__,
        "engine": version("tflite"),
        "packages": {"numpy": np.__version__, "opencv": cv2.__version__},  # on armhf they are Debian's
        "decoder": decoder.BACKEND,
        "self_test": wrong or "passed",
        "self_test_steps_apart": apart,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "steps": steps,
        "detections": [
            {"class": classes[int(c)], "score": float(s), "box": [float(v) for v in box]}
            for box, s, c in zip(found.xyxy, found.score, found.class_id, strict=True)
        ],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
