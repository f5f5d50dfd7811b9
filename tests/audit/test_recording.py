"""What an audit plays: a video at any moment, and kept paths where they were."""

from __future__ import annotations

import bisect
import random
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.audit.begin import Plan, audit_paths
from edge_centernet.audit.recording import PathsRecording, VideoRecording
from edge_centernet.errors import ConfigError
from edge_centernet.history.audit import Stretch
from edge_centernet.history.store import Store, StoredEvent, StoredPath, open_store
from edge_centernet.tracking.line_counter import parse_line

HOUR_MS = 3_600_000
BEGAN = 1_800_000_000_000


def film(path: Path, *options: str) -> Path:
    """Ten seconds of a moving pattern with the time in it; by FFmpeg's program, in the file's format."""
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=128x96:rate=12:duration=10"]
    subprocess.run([*command, *options, path], check=True)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ("-c:v", "libx264", "-g", "50", "-bf", "3")),
        ("a.mkv", ("-c:v", "libx264", "-g", "200", "-bf", "2")),
        ("a.ts", ("-c:v", "mpeg2video", "-g", "30")),
        ("a.avi", ("-c:v", "mjpeg")),
        ("a.mp4", ("-vf", "select='not(eq(mod(n\\,3)\\,1))'", "-fps_mode", "vfr", "-c:v", "libx264")),
    ],
)
def test_a_video_shows_at_each_moment_what_it_shows_in_turn(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    """Sought in any order, forwards and backwards, the frame, its time and the next one's are the same."""
    if subprocess.run(["which", "ffmpeg"], capture_output=True).returncode:
        pytest.skip("needs ffmpeg")
    video = VideoRecording(film(tmp_path / name, *options))
    frames = list(video)
    video.close()
    times, lots = [frame.seconds for frame in frames], random.Random(3)
    sought = VideoRecording(tmp_path / name)
    for moment in [0.0, 9.9, 0.05, *(lots.uniform(0, 10) for _ in range(12)), 99.0]:
        at = bisect.bisect(times, moment) - 1
        image, seconds, following = sought.at(moment)
        assert (seconds, following) == (times[at], times[at + 1] if at + 1 < len(times) else None)
        assert np.array_equal(image, frames[at].image)
    sought.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three days: from 9 to 17 somebody walks from left to right each minute; nobody is there at night."""
    opened = Store(tmp_path / "a.db", "entrance", BEGAN, "UTC")
    events, paths = [], []
    walk = np.array([[i / 2, i / 20, 0.5, 0.1] for i in range(21)], np.float32)
    for day in range(3):
        for minute in range(8 * 60):
            at = BEGAN + (24 * day + 9) * HOUR_MS + 60_000 * minute
            paths.append(StoredPath(at, at + 10_000, "person", minute, walk))
            events.append(StoredEvent(at + 5_200, "crossed", "door", "in", "person", minute))
    end = BEGAN + 72 * HOUR_MS
    gap = BEGAN + 34 * HOUR_MS, BEGAN + 35 * HOUR_MS, "camera"
    opened.add(end, events, paths, [gap])
    opened.close()
    return opened.path


def test_paths_are_dots_where_people_walked(store: Path) -> None:
    """In the middle after five of ten seconds; nothing half a minute later."""
    begin = 9 * 3600.0
    stretch = Stretch(begin, begin + 120, begin, begin + 120, begin)
    played = PathsRecording(store, BEGAN, [stretch], None)
    ground = played.at(begin + 40).image
    assert len(np.unique(ground)) == 1
    image, seconds, following = played.at(begin + 5)
    assert (seconds, following) == (begin + 5, begin + 5.08)
    rows, columns = np.nonzero((image > 225).all(2))  # the dot's white rim
    assert (rows.mean() / image.shape[0], columns.mean() / image.shape[1]) == pytest.approx(
        (0.5, 0.5), abs=0.01
    )
    still = store.with_name("still.png")
    cv2.imwrite(str(still), np.full((100, 200, 3), 7, np.uint8))
    assert (PathsRecording(store, BEGAN, [stretch], still).at(begin + 40).image == 7).all()


def test_nights_and_gaps_are_not_watched(store: Path) -> None:
    """Stretches are of the hours in which people walked and the camera looked; nobody would watch a night."""
    line = parse_line("door=0.5,1,0.5,0")
    for _ in range(5):
        made = audit_paths(store, [line], None, None, Plan(minutes=20, stretches=4, anew=True))
        assert len(made.stretches) == 4
        for stretch in made.stretches:
            begin, end = (stretch.began / 3600 + 9, stretch.ended / 3600 + 9)
            assert begin % 24 >= 9
            assert end % 24 <= 17.01
            assert not 34 <= begin < 35
            assert not 34 < end <= 35
            inside = [one for one in made.counted if stretch.began <= one.seconds < stretch.ended]
            assert 4 <= len(inside) <= 6
    again = audit_paths(store, [line], None, None, Plan())
    assert again.number == made.number  # what was begun goes on


def test_lines_that_a_store_does_not_know_are_refused(store: Path) -> None:
    """With the names of those that it knows; nothing is written."""
    with pytest.raises(ConfigError, match=r"crossings of \(door\), got 'gate'"):
        audit_paths(store, [parse_line("gate=0.5,1,0.5,0")], None, None, Plan())
    base = open_store(store)
    assert base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'audit'").fetchone() == (0,)
    base.close()
