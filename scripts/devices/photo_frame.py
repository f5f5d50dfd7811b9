#!/usr/bin/env python3
"""A photo as one raw frame of a virtual camera: 640x480, YUYV, the photo in the middle of a black picture.

scripts/devices/photo_frame.py PHOTO OUT.raw
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 480


def main() -> int:
    """Exit code 0, or 2 with one line on standard error."""
    source, target = sys.argv[1:]
    photo = cv2.imread(source)
    if photo is None:
        print(f"photo_frame.py: expected a photo, got {source}", file=sys.stderr)
        return 2
    scale = min(WIDTH / photo.shape[1], HEIGHT / photo.shape[0])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    top, left = (HEIGHT - small.shape[0]) // 2, (WIDTH - small.shape[1]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    with open(target, "wb") as file:
        file.write(cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_YUYV).tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
