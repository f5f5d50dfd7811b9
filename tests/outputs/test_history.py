"""What the detection loop tells is in the store before anybody else hears of it, whatever the disk does."""

from __future__ import annotations

import logging
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from snapshots import CLASSES, counted, crossing, snapshot

from edge_centernet.cli import cli
from edge_centernet.detections import Detections
from edge_centernet.files import Unwritten
from edge_centernet.history.store import Retention, Store, open_store, unpack_points
from edge_centernet.outputs.history import Clock, HistoryOutput
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Event, QueueCount, Tally, Tracks, ZoneCount

NOW = 1_796_040_000.0  # seconds since 1970


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        """It shows NOW."""
        self.ahead = NOW - time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a reader finds."""
    with closing(open_store(path)) as base:
        return base.execute(query).fetchall()


def output(
    path: Path, wall: Wall | None = None, live: bool = True, unwritten: Unwritten | None = None
) -> HistoryOutput:
    """An output at work."""
    return HistoryOutput(path, "door cam", CLASSES, Retention(), live, unwritten, Clock(wall or Wall()))


def tracks(*ids: int, x: float = 0.0, ended: tuple[int, ...] = ()) -> Tracks:
    """A person for each id, whose foot point is at x + 16, 40 in an image of 64x48."""
    n = len(ids)
    boxes = Detections(np.tile([x, 8.0, x + 32, 40], (n, 1)), np.full(n, 0.9), np.full(n, 2, np.int32))
    nothing = np.zeros(n, np.float32)
    return Tracks(np.array(ids, np.int64), boxes, np.zeros((n, 2), np.float32), nothing, ended=ended)


def test_an_event_is_there_at_once(tmp_path: Path) -> None:
    """Before `update` returns, another process can read it; its time is that of the frame's capture."""
    history = output(tmp_path / "a.db")
    history.update(snapshot(0, tally=counted(0)))
    taken = time.monotonic()
    history.update(snapshot(1, tally=counted(1, 0, crossing(7)), captured=taken - 0.5))
    ((when, *event),) = rows(
        tmp_path / "a.db", "SELECT time, kind, place, direction, class, track FROM event"
    )
    assert event == ["crossed", "door", "in", "person", 7]
    assert when == pytest.approx((NOW - 0.5) * 1000, abs=2000)
    history.close()


def test_alerts_resets_and_waits_are_kept(tmp_path: Path) -> None:
    """Each with what belongs to it, and the length of a queue by the minute."""
    history = output(tmp_path / "a.db")
    began = time.monotonic()
    events = (
        Event("left", "till", 4, "person", 7.0, dwell_s=9.5, value=9.5),
        Event("alert", "till", 7, "person", 7.0, rule="busy", state="began", value=6),
        Event("alert", "till", 0, "", 7.0, dwell_s=3.5, rule="busy", state="ended", value=8),
        Event("reset", "shop", 0, "", 7.0, value=2),
    )
    for number in range(11):
        zone = ZoneCount("till", 5, 5, 0.0, 0.0, {}, QueueCount(3 if number < 6 else 1))
        tally = Tally((), (zone,), events if number == 10 else ())
        history.update(snapshot(number, tally=tally, captured=began + number / 10))
    history.close()
    columns = "kind, place, direction, class, track, dwell, rule, value"
    assert rows(tmp_path / "a.db", f"SELECT {columns} FROM event ORDER BY id") == [
        ("left", "till", "", "person", 4, 9.5, "", 9.5),
        ("alert", "till", "began", "person", 7, None, "busy", 6),
        ("alert", "till", "ended", "", 0, 3.5, "busy", 8),
        ("reset", "shop", "", "", 0, None, "", 2),
    ]
    ((queue, most),) = rows(
        tmp_path / "a.db", "SELECT sum(queue * watched) / sum(watched), max(queue_most) FROM occupancy"
    )
    assert (queue, most) == (pytest.approx(2.0, abs=0.1), 3)


def test_a_silent_camera_is_a_gap(tmp_path: Path) -> None:
    """From its last frame to the next one; and to the end, if it does not come back."""
    history = output(tmp_path / "a.db")
    began = time.monotonic()
    history.update(snapshot(0, captured=began))
    history.waiting(CaptureState("lost"))
    history.update(snapshot(1, captured=began + 3))
    history.waiting(CaptureState("lost"))
    history.close()
    (first, second) = rows(tmp_path / "a.db", "SELECT ended - began, reason FROM gap ORDER BY began")
    assert first == (3000, "camera")
    assert second[1] == "camera"


def test_a_clock_that_is_set_leaves_a_gap(tmp_path: Path) -> None:
    """A board without a battery wakes up in the past and jumps ahead when it finds a time server."""
    wall = Wall()
    history = output(tmp_path / "a.db", wall)
    history.update(snapshot(0, tally=counted(1, 0, crossing(1))))
    wall.ahead += 3600
    history.update(snapshot(1, tally=counted(2, 0, crossing(2))))
    wall.ahead -= 30  # back: nothing is missing
    history.update(snapshot(2, tally=counted(3, 0, crossing(3))))
    history.close()
    ((span, reason),) = rows(tmp_path / "a.db", "SELECT ended - began, reason FROM gap")
    assert (span, reason) == (3_600_000, "clock")
    times = [time for (time,) in rows(tmp_path / "a.db", "SELECT time FROM event ORDER BY id")]
    assert np.diff(times) == pytest.approx([3_600_000, -30_000], abs=1000)


def test_a_full_disk_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """Counting goes on, the log tells it once, and what waited is written when there is room again."""
    monkeypatch.setattr("edge_centernet.outputs.history._ALIVE_EVERY_S", 0.0)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk: needs root")
    try:
        unwritten = Unwritten()
        history = output(disk / "a.db", unwritten=unwritten)
        history.update(snapshot(0, tally=counted(1, 0, crossing(1))))
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        with caplog.at_level(logging.WARNING):
            for number in range(2, 202):
                history.update(snapshot(number, tally=counted(number, 0, crossing(number))))
        assert [
            record.message.count("detection goes on, and it is tried again") for record in caplog.records
        ] == [1]
        assert unwritten.now() == f"{disk}/a.db: cannot write: database or disk is full"
        filler.unlink()
        history.update(snapshot(202, tally=counted(202, 0, crossing(202))))
        assert unwritten.all() == ""
        assert rows(disk / "a.db", "SELECT track FROM event ORDER BY id") == [(n,) for n in range(1, 203)]
        history.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_occupancy_is_seconds_of_persons(tmp_path: Path) -> None:
    """Two inside for one half of the time and none for the other: one on average, two at most."""
    history = output(tmp_path / "a.db")
    began = time.monotonic()
    for number in range(41):
        inside = 2 if number <= 20 else 0
        history.update(snapshot(number, tally=counted(0, inside=inside), captured=began + number / 10))
    history.close()
    found = rows(
        tmp_path / "a.db",
        "SELECT sum(inside * watched) / sum(watched), sum(watched), max(most) FROM occupancy",
    )
    assert found[0] == pytest.approx((1.0, 4.0, 2), abs=0.02)


def test_paths_are_kept_without_a_picture(tmp_path: Path) -> None:
    """Foot points five times a second, as fractions of the image; a flicker is no path."""
    history = output(tmp_path / "a.db")
    began = time.monotonic()
    for number in range(21):
        seen = tracks(5, x=float(number))
        history.update(snapshot(number, tracks=seen, found=seen.found, captured=began + number / 20))
    flicker = tracks(6, ended=(5,))
    history.update(snapshot(21, tracks=flicker, found=flicker.found, captured=began + 1.05))
    history.close()
    ((lasted, name, track, points),) = rows(
        tmp_path / "a.db", "SELECT ended - began, class, track, points FROM path"
    )
    assert (name, track) == ("person", 5)
    walk = unpack_points(points)
    assert walk[:, 0] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0], abs=0.051)
    assert lasted == pytest.approx(1000, abs=51)
    assert walk[0] == pytest.approx([0, 16 / 64, 40 / 48, 32 / 64], abs=1e-4)
    assert walk[-1, 1] > walk[0, 1] + 0.25


def test_a_file_is_timed_by_its_own_clock(tmp_path: Path) -> None:
    """Frames of a video come faster than real time; events keep their distance."""
    history = output(tmp_path / "a.db", live=False)
    for number in (0, 200):
        history.update(snapshot(number, tally=counted(number, 0, crossing(number))))
    history.close()
    first, second = (time for (time,) in rows(tmp_path / "a.db", "SELECT time FROM event ORDER BY id"))
    assert second - first == 10_000


def test_a_recording_is_stored_at_the_time_it_was_made(tmp_path: Path) -> None:
    """Its run, its events and its end, a day before now."""
    clock = Clock(Wall(), recorded=NOW - 86_400)
    history = HistoryOutput(tmp_path / "a.db", "door cam", CLASSES, Retention(), False, clock=clock)
    for number in (0, 200):
        history.update(snapshot(number, tally=counted(number, 0, crossing(number))))
    history.close()
    start = round(1000 * (NOW - 86_400))
    assert rows(tmp_path / "a.db", "SELECT time FROM event ORDER BY id") == [(start,), (start + 10_000,)]
    assert rows(tmp_path / "a.db", "SELECT began, alive FROM run") == [(start, start + 10_000)]


def test_the_next_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    """Two runs, one history, and the pause between them."""
    for number, ahead in ((1, 0.0), (2, 60.0)):
        wall = Wall()
        wall.ahead += ahead
        history = output(tmp_path / "a.db", wall)
        history.update(snapshot(0, tally=counted(number, 0, crossing(number))))
        history.close()
    assert rows(tmp_path / "a.db", "SELECT run, track FROM event ORDER BY id") == [(1, 1), (2, 2)]
    ((pause, reason),) = rows(tmp_path / "a.db", "SELECT ended - began, reason FROM gap")
    assert (reason, pause) == ("off", pytest.approx(60_000, abs=2000))


def test_the_service_keeps_a_store_where_something_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by the unit's environment; without lines and zones nothing is tracked for it."""
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    monkeypatch.setenv("EDGE_CENTERNET_STORE", str(tmp_path / "history.db"))
    options = ["detect", "--source", str(tmp_path / "v.avi"), "--no-save", "--format", "none"]
    done = CliRunner().invoke(cli, options)
    assert (done.exit_code, (tmp_path / "history.db").exists()) == (0, False), done.output
    done = CliRunner().invoke(cli, [*options, "--count-line", "0.5,0,0.5,1", "--name", "door"])
    assert done.exit_code == 0, done.output
    assert rows(tmp_path / "history.db", "SELECT camera FROM run") == [("door",)]


def test_a_store_in_use_ends_the_start_and_not_detection(tmp_path: Path) -> None:
    """Before a model is loaded or a page is served for nothing."""
    store = Store(tmp_path / "a.db", "c", 0)
    with pytest.raises(Exception, match="another process is writing to it"):
        output(tmp_path / "a.db")
    store.close()
