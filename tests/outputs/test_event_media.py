"""Each event leaves a blurred picture and a short video, within bounds, and detection does not wait."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from receiver import Receiver, wait_until
from snapshots import CLASSES, counted, crossing, snapshot
from support import Result

from edge_centernet.detections import Detections
from edge_centernet.files import Unwritten
from edge_centernet.history.store import DAY_MS, Retention, open_store
from edge_centernet.outputs.annotate import Overlay, Remembered
from edge_centernet.outputs.clips import CLIP_FPS, Clips, find_encoder
from edge_centernet.outputs.event_media import EventMedia, MediaFolder, event_file
from edge_centernet.outputs.history import Clock, HistoryOutput
from edge_centernet.tracking.state import Event, Snapshot

NOW_MS = 1_796_040_000_000
NOISE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
BOX = [[20, 20, 80, 80]]


def seen(number: int, *boxes: list[int], events: tuple[Event, ...] = ()) -> Snapshot:
    """A frame of noise at twenty a second, with a person in each box."""
    people = Detections(np.array(boxes).reshape(-1, 4), np.full(len(boxes), 0.9), np.full(len(boxes), 2))
    plain = snapshot(number, tally=counted(number, 0, *events))
    return replace(plain, frame=replace(plain.frame, image=NOISE), found=people)


def media(folder: Path, clock: Clock | None = None, live: bool = True, **options: Any) -> EventMedia:
    """At work, with people blurred."""
    overlay = Overlay(CLASSES, blur=["person"])
    return EventMedia(MediaFolder(folder, 30, 10 << 20), overlay, clock or Clock(), live=live, **options)


def test_store_and_picture_have_the_same_name(tmp_path: Path) -> None:
    """Time, kind and track of the stored event lead to the file; those of events of one frame are alike."""
    clock = Clock()
    history = HistoryOutput(tmp_path / "a.db", "a", CLASSES, Retention(), True, clock=clock)
    pictures = media(tmp_path / "events", clock)
    left = Event("left", "shop", 7, "person", 0.05, dwell_s=3.0)
    for one in (seen(0), seen(1, *BOX, events=(crossing(7), left))):
        history.update(one)
        pictures.update(one)
    history.close()
    pictures.close()
    with closing(open_store(tmp_path / "a.db")) as base:
        stored = base.execute("SELECT time, kind, track FROM event ORDER BY id").fetchall()
    files = [tmp_path / "events" / event_file(*row) for row in stored]
    assert [row[1:] for row in stored] == [("crossed", 7), ("left", 7)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert event_file(NOW_MS, "crossed", 7) == "2026-11-30/1796040000000-crossed-7.jpg"


def test_a_picture_is_blurred_where_somebody_was_seen_just_before(tmp_path: Path) -> None:
    """The detector misses somebody in the very frame of the event; the frames before it were not drawn."""
    pictures = media(tmp_path)
    pictures.update(seen(0, *BOX))
    pictures.update(seen(1))
    pictures.update(seen(2, events=(crossing(1),)))
    pictures.close()
    (file,) = tmp_path.rglob("*.jpg")
    image = cv2.imread(str(file)).astype(int)
    sharp = cv2.imdecode(cv2.imencode(".jpg", NOISE)[1], cv2.IMREAD_COLOR).astype(int)
    inside, outside = (slice(25, 75), slice(25, 75)), (slice(0, 90), slice(92, 128))
    assert image[inside].std() < 0.5 * sharp[inside].std()
    assert abs(image[outside].std() / sharp[outside].std() - 1) < 0.2


def test_the_folder_is_bounded(tmp_path: Path) -> None:
    """Of thousands of files the newest stay; what has other names is neither counted nor deleted."""
    (tmp_path / "2020-01-01").mkdir()
    own = tmp_path / "2020-01-01/holiday.jpg"
    own.write_bytes(bytes(2 << 20))
    stale = tmp_path / "2020-01-01/.1577836800000-crossed-1.mp4"  # by a process that was killed
    stale.write_bytes(b"half")

    def block(part: Path) -> None:
        part.write_bytes(bytes(4096))

    folder = MediaFolder(tmp_path, 30, 1 << 20)
    for number in range(3000):
        name = event_file(NOW_MS + 60_000 * number, "queue-long", number)
        assert folder.write(name, block, NOW_MS)
        assert folder.bytes <= 1 << 20
    kept = sorted(path for path in tmp_path.rglob("*.jpg") if path != own)
    assert len(kept) == 256
    assert kept[0].name == f"{NOW_MS + 60_000 * 2744}-queue-long-2744.jpg"
    assert len(list(tmp_path.iterdir())) == 2  # days without files are gone
    assert (own.exists(), stale.exists()) == (True, False)
    # A new process finds what is there, and a day later all of it is too old.
    again = MediaFolder(tmp_path, 1, 1 << 20)
    assert again.bytes == 1 << 20
    again.prune(NOW_MS + 60_000 * 3000 + DAY_MS)
    assert (again.bytes, [*tmp_path.rglob("*.jpg")]) == (0, [own])


def test_a_full_disk_costs_pictures_and_nothing_else(tmp_path: Path) -> None:
    """It is told, and the next picture is written when there is room again."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk: needs root")
    try:
        unwritten = Unwritten()
        folder = MediaFolder(tmp_path, 30, 10 << 20, unwritten)
        pictures = EventMedia(folder, Overlay(CLASSES), Clock(), live=True)
        filler = tmp_path / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        pictures.update(seen(1, events=(crossing(1),)))
        wait_until(lambda: "No space left" in unwritten.now())
        filler.unlink()
        pictures.update(seen(2, events=(crossing(2),)))
        wait_until(lambda: not unwritten.now())
        pictures.close()
        assert unwritten.all() == f"{tmp_path}: 1 files of events could not be written"
        assert [path.name.split("-")[2] for path in tmp_path.rglob("*.jpg")] == ["2.jpg"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_detection_does_not_wait_for_drawing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While drawing takes for ever, `update` returns; pictures beyond some megabytes are left out."""
    go = threading.Event()

    class Slow(Overlay):
        def paint(self, remembered: Remembered, max_width: int | None = None) -> Any:
            go.wait(30)
            return super().paint(remembered, max_width)

    pictures = EventMedia(MediaFolder(tmp_path, 30, 10 << 20), Slow(CLASSES), Clock(), live=True, clip_s=1.0)
    begin = time.monotonic()
    for number in range(2000):
        one = seen(number, events=(crossing(number),))
        pictures.update(replace(one, frame=replace(one.frame, image=np.zeros((720, 1280, 3), np.uint8))))
    took = time.monotonic() - begin
    go.set()
    pictures.close()
    assert took < 20  # milliseconds each would be a hundred times of what it takes
    assert len(list(tmp_path.rglob("*.jpg"))) == (48 << 20) // (720 * 1280 * 3)
    assert sum("drawing takes too long" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("program", ["ffmpeg", "no-such-program"])
def test_a_clip_begins_before_its_event_and_ends_after_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, program: str
) -> None:
    """A second each; a second event makes it longer. With ffmpeg for browsers, without as Motion JPEG."""
    if program == "ffmpeg" and shutil.which(program) is None:
        pytest.skip("no ffmpeg: apt-get install ffmpeg")
    with caplog.at_level(logging.INFO):
        encoder = find_encoder(program)
    assert sum(record.message.startswith("clips are ") for record in caplog.records) == 1
    folder = MediaFolder(tmp_path, 30, 10 << 20)
    clips = Clips(folder, 1.0, encoder, live=False)
    for number in range(60):
        grey = np.full((91, 161, 3), 4 * number, np.uint8)  # odd sides, too
        event = number in (20, 25)
        name = event_file(NOW_MS + 100 * number, "crossed", number, "")
        clips.add(cv2.imencode(".jpg", grey)[1].tobytes(), number / CLIP_FPS, [name] if event else [], NOW_MS)
    clips.close()
    (file,) = tmp_path.rglob("*-crossed-*")
    assert file.name == f"{NOW_MS + 2000}-crossed-20{encoder.suffix}"
    video, levels = cv2.VideoCapture(str(file)), []
    while (read := video.read())[0]:
        levels.append(round(float(read[1].mean()) / 4))
    video.release()
    assert len(levels) == 26
    assert abs(levels[0] - 10) <= 1
    assert abs(levels[-1] - 35) <= 1
    assert folder.bytes == file.stat().st_size


def test_a_whole_run_tells_of_each_event(
    tmp_path: Path, onnx_model: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video through `detect` by a TOML file: one message with the picture from the folder, one clip."""
    receiver = Receiver()
    film = cv2.VideoWriter(
        str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (squares.WIDTH, squares.HEIGHT)
    )
    for i in range(40):
        film.write(squares.scene(("red", 2 * i, 18)))
    film.release()
    monkeypatch.setenv("HOOK", 'se"cret')
    (tmp_path / "door.toml").write_text(
        f"""
        source = "{tmp_path}/a.avi"
        name = "Front"
        model = "{onnx_model}"
        save = false
        format = "none"
        events_dir = "{tmp_path}/events"
        webhook_queue = "{tmp_path}/q.db"
        clips = 1
        [[line]]
        name = "door"
        from = [0.5, 0]
        to = [0.5, 1]
        [[webhook]]
        url = "{receiver.url}"
        secret = "${{HOOK}}"
        places = ["door"]
        snapshot = true
        """
    )
    done = run("detect", "--config", tmp_path / "door.toml")
    receiver.close()
    assert (done.code, "cret" in done.err) == (0, False)
    ((_, headers, body),) = receiver.got
    message = json.loads(body)
    assert (message["event"]["event"], message["event"]["where"]) == ("crossed", "door")
    assert "Edge-Centernet-Signature" in headers
    (picture,) = (tmp_path / "events").rglob("*.jpg")
    assert message["snapshot"].startswith("/9j/")
    assert len(message["snapshot"]) == (picture.stat().st_size + 2) // 3 * 4
    (clip,) = [path for path in (tmp_path / "events").rglob("*-crossed-*") if path != picture]
    assert clip.stem == picture.stem


def test_events_that_nobody_counts_are_an_error(tmp_path: Path, run: Callable[..., Result]) -> None:
    """A webhook without a line would stay silent for ever."""
    options = ["--source", "a.mp4", "--events-dir", tmp_path / "e"]
    assert "expected --count-line or --zone" in run("detect", *options).err
    assert "--clips: expected --events-dir" in run("detect", "--camera", "0", "--clips", "3").err
