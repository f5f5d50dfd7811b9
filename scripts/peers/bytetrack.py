"""ByteTrack by others on our detections: REQUEST.json ANSWER.json.

REQUEST: scenes by name, {"fps", "frames", "rows": [[frame, left, top, right, bottom, score], ...]}, and settings, each
the keyword arguments of the tracker and "low", the score from which it sees a detection. ANSWER: for each setting and
scene the rows [frame, id, left, top, right, bottom] and the median milliseconds of an update. Runs the tracker that is
installed: `trackers`, or the last `supervision` that had one.
"""

import json
import statistics
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")  # supervision announces that its ByteTrack will go
import supervision as sv  # noqa: E402

try:
    from trackers import ByteTrackTracker as ByteTrack
except ImportError:
    from supervision import ByteTrack


def follow(scene: dict, setting: dict) -> dict:
    """One run over one scene."""
    options = {key: value for key, value in setting.items() if key != "low"}
    tracker = ByteTrack(frame_rate=scene["fps"], **options)
    update = getattr(tracker, "update_with_detections", None) or tracker.update
    rows = np.array(scene["rows"], np.float32).reshape(-1, 6)
    rows = rows[rows[:, 5] >= setting["low"]]
    tracks, times = [], []
    for frame in range(scene["frames"]):
        of = rows[rows[:, 0] == frame]
        found = sv.Detections(of[:, 1:5], confidence=of[:, 5], class_id=np.zeros(len(of), int))
        start = time.perf_counter()
        out = update(found)
        times.append(1000.0 * (time.perf_counter() - start))
        for box, track_id in zip(out.xyxy, [] if out.tracker_id is None else out.tracker_id, strict=True):
            if track_id >= 0:
                tracks.append([frame, int(track_id), *(round(float(value), 2) for value in box)])
    return {"tracks": tracks, "ms": statistics.median(times)}


with open(sys.argv[1]) as file:
    request = json.load(file)
answer = [
    {name: follow(scene, setting) for name, scene in request["scenes"].items()} for setting in request["settings"]
]
with open(sys.argv[2], "w") as file:
    json.dump(answer, file)
