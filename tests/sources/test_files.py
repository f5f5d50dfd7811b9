"""Pictures, videos, cameras and URLs as frames."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import importlib
import importlib.util
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from videos import grey, write_avi

from edge_centernet.errors import ConfigError, SourceError
from edge_centernet.sources import cameras, network
from edge_centernet.sources.cameras import CameraOptions
from edge_centernet.sources.files import Video, open_camera, open_source, public_name, to_bgr
from edge_centernet.system.logs import quiet_libraries
from edge_centernet.system.machine import board_kind

Write = Callable[[Path, Any], Path]
PICTURE = squares.scene(("red", 10, 18))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten frames of 64x48 at 12 frames a second, brighter from one to the next."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for i in range(10):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that serves tmp_path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    ) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def read(text: str) -> tuple[list[str], list[str]]:
    """(names of the frames read, warnings)."""
    warnings: list[str] = []
    return [frame.source for frame in open_source(text, warnings.append)], warnings


def test_one_image(tmp_path: Path, write_image: Write) -> None:
    """One frame, number 0, with the path as given."""
    path = write_image(tmp_path / "a.png", PICTURE)
    (frame,) = open_source(str(path))
    assert (frame.source, frame.number) == (str(path), 0)
    assert np.array_equal(frame.image, PICTURE)


def test_an_image_under_another_suffix(tmp_path: Path, write_image: Write) -> None:
    """The content decides, not the name."""
    path = write_image(tmp_path / "a.png", PICTURE).rename(tmp_path / "photo.dat")
    assert len(read(str(path))[0]) == 1


def test_a_folder_in_order(tmp_path: Path, write_image: Write) -> None:
    """Images only, sorted by name, not those below."""
    for name in ("b.png", "a.JPG", "sub/c.png"):
        write_image(tmp_path / name, PICTURE)
    (tmp_path / "notes.txt").write_text("x")
    assert [Path(name).name for name in read(str(tmp_path))[0]] == ["a.JPG", "b.png"]


def test_a_folder_names_what_it_passes_over(tmp_path: Path, write_image: Write) -> None:
    """In one line, with the kinds and how many of each; an image without a suffix is known by its bytes."""
    write_image(tmp_path / "b.png", PICTURE)
    write_image(tmp_path / "a.png", PICTURE).rename(tmp_path / "a")
    for name in ("notes.txt", "list.txt", "c.dng", "README", ".DS_Store"):
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe")
    names, warnings = read(str(tmp_path))
    assert [Path(name).name for name in names] == ["a", "b.png"]
    assert warnings == [
        f"{tmp_path}: passed over 5 files of other types (2 without a suffix, 1 .dng, 2 .txt)"
    ]


def test_a_folder_of_other_files_names_them_too(tmp_path: Path) -> None:
    """The error tells a folder of raw images from an empty one."""
    (tmp_path / "c.dng").write_text("x")
    with pytest.raises(SourceError, match=r"expected images .* found only files of other types \(1 \.dng\)"):
        read(str(tmp_path))


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".gif"])
def test_images_of_rarer_suffixes_are_in_a_folder_too(
    tmp_path: Path, write_image: Write, suffix: str
) -> None:
    """A JPEG under any of its names, and a GIF, by its first picture."""
    path = write_image(tmp_path / "a.jpg", PICTURE)
    if suffix == ".gif":
        pillow = pytest.importorskip("PIL.Image")
        pillow.fromarray(PICTURE).save(path.with_suffix(".gif"))
        if cv2.imread(str(path.with_suffix(".gif"))) is None:
            pytest.skip("this OpenCV reads no GIF")
        path.unlink()
    else:
        path.rename(path.with_suffix(suffix))
    assert read(str(tmp_path)) == ([str(path.with_suffix(suffix))], [])


def test_a_fifo_among_images_is_not_waited_for(tmp_path: Path, write_image: Write) -> None:
    """It is skipped like any other file that is no image."""
    write_image(tmp_path / "b.png", PICTURE)
    os.mkfifo(tmp_path / "a.png")
    names, (warning,) = read(str(tmp_path))
    assert names == [str(tmp_path / "b.png")]
    assert "a.png: expected an image file, got not a regular file" in warning


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path, write_image: Write) -> None:
    """All are read, and every name can be written."""
    for name in ("a.png", "z.png"):
        write_image(tmp_path / name, PICTURE)
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    names, _ = read(str(tmp_path))
    assert [Path(name).name.encode() for name in names] == [b"caf\\udce9.png", b"z.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.nfo", b"a list of things\r\n" * 60),
        ("list.txt", b"photos/1.jpg\n" * 60),
        ("art.ans", b"\x1b[31mred\x1b[0m\r\n" * 60),
        ("firmware.bin", bytes(range(256)) * 60),
        ("page.html", b"<!DOCTYPE html><html><body>no video</body></html>" * 20),
        ("list.ffconcat", b"ffconcat version 1.0\nfile clip.avi\n"),
    ],
)
def test_what_ffmpeg_would_draw_is_no_video(tmp_path: Path, name: str, content: bytes) -> None:
    """It renders texts and any bytes as a terminal would."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}: expected an image or a video"):
        read(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.dng", "photo.dat"])
def test_raw_images_are_not_taken_for_videos(tmp_path: Path, name: str) -> None:
    """FFmpeg would show their preview; both names say so in the same words."""
    (tmp_path / name).write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(200))
    with pytest.raises(SourceError, match=f"{name}: .* got camera raw"):
        read(str(tmp_path / name))


def test_opening_a_video_keeps_the_user_s_options(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment holds for FFmpeg is passed on, and is the same afterwards."""
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    monkeypatch.setenv(name, "rtsp_transport;udp")
    assert len(read(str(video))[0]) == 10
    assert os.environ[name] == "rtsp_transport;udp"
    monkeypatch.delenv(name)
    assert len(read(str(video))[0]) == 10
    assert name not in os.environ


def test_a_pattern(tmp_path: Path, write_image: Write) -> None:
    """`**` reaches below; a file whose name holds a bracket is found by its name."""
    for name in ("b.png", "sub/c.png", "odd[1].png"):
        write_image(tmp_path / name, PICTURE)
    names = read(str(tmp_path / "**" / "*.png"))[0]
    assert [os.path.relpath(name, tmp_path) for name in names] == ["b.png", "odd[1].png", "sub/c.png"]
    assert len(read(str(tmp_path / "odd[1].png"))[0]) == 1


def test_one_bad_file_of_many_is_skipped(tmp_path: Path, write_image: Write) -> None:
    """The others are read; each bad one is reported once and counted."""
    for name in ("a.png", "d.png"):
        write_image(tmp_path / name, PICTURE)
    (tmp_path / "b.jpg").write_text("text")
    (tmp_path / "c.png").write_bytes(b"")
    warnings: list[str] = []
    source = open_source(str(tmp_path), warnings.append)
    assert [Path(frame.source).name for frame in source] == ["a.png", "d.png"]
    assert source.skipped == 2
    assert [("b.jpg" in w, "c.png" in w) for w in warnings] == [(True, False), (False, True)]


def test_only_bad_files_are_an_error(tmp_path: Path) -> None:
    """Never silence about a folder in which nothing can be read."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("text")
    with pytest.raises(SourceError, match="none of the 2 files"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty name"),
        ("none.jpg", "none.jpg: no such file; expected an image, a video or a folder"),
        ("none.mp4", "none.mp4: no such file; expected an image, a video or a folder"),
        ("*.jpg", "no file matches"),
        ("folder", "expected images .* found none"),
        ("notes.txt", "expected an image or a video"),
        ("x" * 300 + ".jpg", "File name too long"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path: Path, name: str, says: str) -> None:
    """Each case says what was expected."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello " * 50)
    with pytest.raises((SourceError, OSError), match=says):
        read(str(tmp_path / name) if name else "")


def test_a_video(video: Path) -> None:
    """Every frame, counted from 0, at the file's rate."""
    source = open_source(str(video))
    assert isinstance(source, Video)
    frames = list(source)
    assert source.fps == 12
    assert not source.live
    assert [frame.number for frame in frames] == list(range(10))
    assert {frame.source for frame in frames} == {str(video)}
    np.testing.assert_allclose([frame.image.mean() for frame in frames], 20 * np.arange(10), atol=4)


def test_a_lot_of_sound_between_frames_ends_no_video(tmp_path: Path) -> None:
    """5,000 packets of sound after each frame: OpenCV gives up after 4,096."""
    path = write_avi(tmp_path / "a.avi", [grey(i) for i in range(4)], sound=5000)
    assert read(str(path)) == ([str(path)] * 4, [])


def test_a_video_that_is_cut_off_says_so(tmp_path: Path) -> None:
    """All that can be read, and a warning with the frames read and promised."""
    path = write_avi(tmp_path / "a.avi", [grey(i) for i in range(10)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    names, warnings = read(str(path))
    assert 1 < len(names) < 10
    assert [f"read {len(names)} frames, but the file promises 10" in line for line in warnings] == [True]


def test_frames_behind_a_damaged_part_are_read(tmp_path: Path) -> None:
    """Of 40 frames of MPEG-4 some in the middle are noise; the last one is there, at its own time."""
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(40):
        writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    path.write_bytes(data)
    warnings: list[str] = []
    frames = list(open_source(str(path), warnings.append))
    assert 15 < len(frames) < 40
    assert frames[-1].seconds == pytest.approx(3.9)
    assert [f"read {len(frames)} frames, but the file promises 40" in line for line in warnings] == [True]


def test_a_recording_without_its_index_is_told_from_other_files(tmp_path: Path) -> None:
    """An MP4 whose recorder lost power."""
    path = tmp_path / "a.mp4"
    path.write_bytes(
        struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"mp41") + struct.pack(">I4s", 9999, b"mdat")
    )
    with pytest.raises(SourceError, match="cut off: its index, which comes last, is missing"):
        read(str(path))


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    """Ten frames in the first second, then one a second: not the number of the frame by the rate."""
    frames = [grey(i) for i in range(10)] + [image for i in range(3) for image in (*[None] * 9, grey(i))]
    path = write_avi(tmp_path / "a.avi", frames)
    warnings: list[str] = []
    seconds = [frame.seconds for frame in open_source(str(path), warnings.append)]
    assert seconds == pytest.approx([*np.arange(10) / 10, 1.9, 2.9, 3.9])
    assert warnings == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.1, 0.2, 0.3]),
        ([-0.2, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3]),
        ([5.0, 5.1, 5.1, 5.3], [0.0, 0.1, 0.2, 0.3]),
        ([0.0, 2.0, 0.1, 2.1, 2.2], [0.0, 2.0, 2.1, 2.2, 2.3]),
        ([0.0, 8.0, 0.0, 0.1, 0.2], [0.0, 8.0, 8.1, 8.2, 8.3]),
    ],
    ids=["none", "decoding times", "late and twice", "damaged", "joined"],
)
def test_times_always_go_on(times: list[float], expected: list[float]) -> None:
    """Whatever a file's times are, a tracker gets rising ones."""

    class Recording:
        """A capture with these times."""

        position = -1

        def grab(self) -> bool:
            self.position += 1
            return self.position < len(times)

        def retrieve(self) -> tuple[bool, np.ndarray[Any, Any]]:
            return True, grey(0)

        def get(self, prop: int) -> float:
            known = {cv2.CAP_PROP_POS_MSEC: 1000 * times[min(self.position, len(times) - 1)]}
            return {**known, cv2.CAP_PROP_FPS: 10.0, cv2.CAP_PROP_FRAME_COUNT: len(times)}.get(prop, 0.0)

    video = Video("none.mp4", live=False, capture=Recording())
    assert [frame.seconds for frame in video] == pytest.approx(expected)


@pytest.mark.parametrize(("density", "size"), [((2, 1), (48, 128)), ((1, 2), (96, 64)), ((1, 1), (48, 64))])
def test_pixels_become_square(tmp_path: Path, density: tuple[int, int], size: tuple[int, int]) -> None:
    """As every player shows it: a pixel twice as wide as high makes two."""
    path = write_avi(tmp_path / "a.avi", [grey(3)] * 3, density=density)
    assert {frame.image.shape[:2] for frame in open_source(str(path))} == {size}


def test_a_second_video_in_a_file_is_told(tmp_path: Path) -> None:
    """Only the first is read; nobody should take it for all."""
    path = write_avi(tmp_path / "a.avi", [grey(i) for i in range(4)], videos=2)
    names, warnings = read(str(path))
    assert len(names) == 4
    assert ["it holds 2 videos, and only the first is read" in line for line in warnings] == [True]


@pytest.mark.parametrize("part", [0.0, 0.05])
def test_a_video_without_a_frame_is_an_error(video: Path, part: float) -> None:
    """Cut so short that nothing can be shown."""
    data = video.read_bytes()
    video.write_bytes(data[: int(part * len(data))])
    with pytest.raises(SourceError, match=video.name):
        read(str(video))


def test_an_image_from_the_web(tmp_path: Path, write_image: Write, server: str) -> None:
    """Downloaded and read like a file."""
    write_image(tmp_path / "a.png", PICTURE)
    (frame,) = open_source(f"{server}/a.png")
    assert np.array_equal(frame.image, PICTURE)


def test_a_video_from_the_web(video: Path, server: str) -> None:
    """Read as a stream."""
    assert len(read(f"{server}/{video.name}")[0]) == 10


@pytest.mark.parametrize("name", ["snapshot.jpg", "stream.mp4"])
def test_what_the_web_does_not_have_is_an_error(server: str, name: str) -> None:
    """With the address in it."""
    with pytest.raises(SourceError, match=name):
        read(f"{server}/{name}")


def test_passwords_are_not_shown() -> None:
    """Neither in errors nor in records."""
    with pytest.raises(SourceError, match=r"^rtsp://127\.0\.0\.1:1/cam: ") as error:
        open_camera("rtsp://admin:secret@127.0.0.1:1/cam")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("camera", ["97", "/dev/video97"])
def test_a_camera_that_is_not_there_is_an_error(camera: str) -> None:
    """One line that says so, and which cameras there are."""
    with pytest.raises(SourceError, match="no such camera"):
        open_camera(camera)


def test_libraries_are_quiet_only_inside(capfd: pytest.CaptureFixture[str]) -> None:
    """What C code writes to stderr is hidden within the block, also nested, and heard afterwards."""
    with quiet_libraries():
        with quiet_libraries():
            os.write(2, b"inner")
        os.write(2, b"outer")
    os.write(2, b"after")
    sys.stderr.flush()
    assert capfd.readouterr().err == "after"


# ---- cameras at this computer ----------------------------------------------------------------------


class Device:
    """A capture that accepts the values in `can` only, as a V4L2 driver does; notes what it is asked."""

    def __init__(self, can: dict[int, set[float]]) -> None:
        """The first value of each is what it has before it is asked."""
        self._can = can
        self._values = {prop: min(values) for prop, values in can.items()}
        self.asked: list[int] = []

    def set(self, prop: int, value: float) -> bool:
        """Whether the value was taken."""
        self.asked.append(prop)
        if value in self._can[prop]:
            self._values[prop] = value
        return value in self._can[prop]

    def get(self, prop: int) -> float:
        """The value now."""
        return self._values[prop]


def device() -> Device:
    """YUYV or MJPG, 640x480 or 1280x720, 15 or 29.97 frames a second."""
    return Device(
        {
            cv2.CAP_PROP_FOURCC: {cv2.VideoWriter.fourcc(*"YUYV"), cv2.VideoWriter.fourcc(*"MJPG")},
            cv2.CAP_PROP_FRAME_WIDTH: {640, 1280},
            cv2.CAP_PROP_FRAME_HEIGHT: {480, 720},
            cv2.CAP_PROP_FPS: {15, 30},
        }
    )


def test_a_camera_is_asked_for_its_format_first() -> None:
    """Pixel format, then size, then rate: the first limits the others. What it takes needs no warning."""
    camera = device()
    assert cameras.configure(camera, CameraOptions(1280, 720, 30, "MJPG")) == ""
    order = [cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS]
    assert camera.asked == order


def test_a_camera_that_does_otherwise_is_told() -> None:
    """One line with what was asked and what is given; options not given are not asked for."""
    assert (
        cameras.configure(device(), CameraOptions(1920, 1080, 60, "H264"))
        == "asked for H264, 1920x1080, 60 fps; the camera gives MJPG, 640x480, 15 fps"
    )
    camera = device()
    assert cameras.configure(camera, CameraOptions()) == ""
    assert camera.asked == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 640}, "expected width and height"),
        ({"width": 0, "height": 480}, "1..16384 pixels"),
        ({"fps": 0.0}, "above 0"),
        ({"fps": float("nan")}, "above 0"),
        ({"fourcc": "MJPEG"}, "four letters"),
        ({"fourcc": "äöüß"}, "four letters"),
    ],
)
def test_impossible_camera_options_are_an_error(options: dict[str, Any], says: str) -> None:
    """Before any camera is opened."""
    with pytest.raises(ConfigError, match=says):
        CameraOptions(**options)


@pytest.mark.parametrize(
    ("camera", "options"),
    [
        ("rtsp://admin:secret@127.0.0.1:1/cam", CameraOptions(fps=5)),
        ("gst:videotestsrc", CameraOptions(width=640, height=480)),
        ("csi", CameraOptions(fourcc="MJPG")),
    ],
)
def test_options_without_effect_are_an_error(camera: str, options: CameraOptions) -> None:
    """A stream has the size and rate that its camera was set to; saying nothing would mislead."""
    with pytest.raises(ConfigError, match=f"expected no camera .*{options.given[0]}") as error:
        open_camera(camera, options)
    assert "secret" not in str(error.value)


def test_grey_pictures_become_bgr() -> None:
    """A camera of one channel serves as well."""
    assert np.array_equal(to_bgr(PICTURE[..., 0], "cam"), np.repeat(PICTURE[..., :1], 3, axis=2))
    assert to_bgr(PICTURE, "cam") is PICTURE


@pytest.mark.parametrize(
    "raw",
    [np.zeros((1, 614400), np.uint8), np.zeros((480, 640, 2), np.uint8), np.zeros((480, 640), np.uint16)],
    ids=["compressed", "YUYV", "16 bits"],
)
def test_buffers_that_are_no_picture_are_an_error(raw: np.ndarray[Any, Any]) -> None:
    """V4L2 hands them over undecoded; the message names the way out, also the board's own."""
    with pytest.raises(SourceError, match=r"^cam: expected images .* MJPG or YUYV; a hint$"):
        to_bgr(raw, "cam", "; a hint")


@pytest.mark.parametrize(
    ("model", "tegra", "expected"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0\0", False, "pi"),
        ("NVIDIA Jetson Orin Nano Developer Kit\0", False, "jetson"),
        ("NVIDIA Orin NX\0", True, "jetson"),
        ("Rockchip RK3588\0", False, None),
        (None, False, None),
    ],
)
def test_the_board_is_known_by_its_files(
    tmp_path: Path, model: str | None, tegra: bool, expected: str | None
) -> None:
    """And only on a board with a ribbon cable does a message speak of --camera csi."""
    if model is not None:
        (tmp_path / "proc/device-tree").mkdir(parents=True)
        (tmp_path / "proc/device-tree/model").write_text(model)
    if tegra:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/nv_tegra_release").write_text("# R36")
    assert board_kind(tmp_path) == expected or (
        expected is None and board_kind(tmp_path) not in ("pi", "jetson")
    )
    assert ("--camera csi" in cameras.csi_hint(tmp_path)) == (expected is not None)


def test_a_ribbon_cable_camera_elsewhere_is_an_error() -> None:
    """One line that names the computers which have one."""
    if importlib.util.find_spec("picamera2") or cameras.csi_hint():
        pytest.skip("this computer may have such a camera")
    with pytest.raises(SourceError, match=r"^csi:1: expected a Raspberry Pi with picamera2, or a Jetson"):
        open_camera("csi:1")


def test_a_pi_without_picamera2_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, and how a virtual environment comes to see it."""
    if importlib.util.find_spec("picamera2"):
        pytest.skip("picamera2 is installed")
    monkeypatch.setattr(cameras, "board_kind", lambda: "pi")
    with pytest.raises(SourceError, match=r"python3-picamera2.*--system-site-packages"):
        open_camera("csi")


PICAMERA2 = """
import threading
import numpy as np

calls = []

class Job:
    def get_result(self):
        return np.full((480, 640, 3), (255, 0, 0), np.uint8)

class Picamera2:
    def __init__(self, index):
        calls.append(("open", index))
        if index > 0:
            raise IndexError("list index out of range")
    def create_video_configuration(self, main, controls):
        calls.append(("video", main, controls))
        return {"main": {"size": main["size"], "format": main["format"]}}
    def configure(self, configuration):
        self.configuration = configuration
    def camera_configuration(self):
        return self.configuration
    def start(self):
        calls.append(("start",))
    def capture_array(self, name, wait, signal_function):
        assert (name, wait) == ("main", False)
        job = Job()
        threading.Timer(0.01, signal_function, [job]).start()
        return job
    def close(self):
        calls.append(("close",))
"""


@pytest.fixture
def picamera2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for picamera2, which runs on a Raspberry Pi only: it checks the order of calls."""
    (tmp_path / "picamera2.py").write_text(PICAMERA2)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("picamera2")
    del sys.modules["picamera2"]


def test_a_pi_camera_by_picamera2(picamera2: Any) -> None:
    """Configured as asked (RGB888 is blue first), started, read, closed."""
    video = open_camera("csi", CameraOptions(640, 480, 25))
    stream = iter(video)
    images = [next(stream).image for _ in range(2)]
    video.close()
    assert picamera2.calls == [
        ("open", 0),
        ("video", {"format": "RGB888", "size": (640, 480)}, {"FrameDurationLimits": (40000, 40000)}),
        ("start",),
        ("close",),
    ]
    assert video.fps == 25
    assert images[0][0, 0].tolist() == [255, 0, 0]


def test_a_pi_camera_that_is_not_there_is_an_error(picamera2: Any) -> None:
    """In words of ours, not picamera2's."""
    with pytest.raises(SourceError, match=r"^csi:3: no camera 3 on the ribbon cable.*--list-cameras"):
        open_camera("csi:3")


def test_a_pi_camera_that_stalls_ends(picamera2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame in time is the end of the source, not a thread that waits for ever."""
    monkeypatch.setattr(picamera2.Picamera2, "capture_array", lambda *args, **more: picamera2.Job())
    monkeypatch.setattr(cameras, "_STALL_S", 0.05)
    with pytest.raises(SourceError, match="gives no image"):
        open_camera("csi", CameraOptions(640, 480))
    assert picamera2.calls[-1] == ("close",)


def test_a_jetson_camera_is_a_pipeline() -> None:
    """Sensor, size and rate as asked; BGR, and only the newest frame is kept."""
    text = cameras.argus_pipeline(1, CameraOptions(1920, 1080, 29.97))
    assert "nvarguscamerasrc sensor-id=1 ! " in text
    assert "width=1920, height=1080, framerate=29970/1000" in text
    assert text.endswith("format=BGR ! appsink drop=true max-buffers=1 sync=false")


def test_a_pipeline_needs_gstreamer() -> None:
    """An OpenCV without it says so, and where one with it is; no password is shown."""
    if cameras.has_gstreamer():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match="this OpenCV has no GStreamer") as error:
        open_camera("gst:rtspsrc location=rtsp://me:secret@cam/ ! decodebin")
    assert "secret" not in str(error.value)


GST_PROGRAM = """
import sys
from edge_centernet.sources.files import open_camera
size = "video/x-raw,width=320,height=240,framerate=10/1"
video = open_camera(f"gst:videotestsrc is-live=true pattern=blue ! {size}")
stream = iter(video)
frame = [next(stream) for _ in range(3)][-1]
video.close()
print(frame.number, frame.image.shape, frame.image[0, 0].argmax(), video.fps)
"""


def test_a_pipeline_with_gstreamer(tmp_path: Path) -> None:
    """Where the system's OpenCV has GStreamer (Debian), a pipeline without a sink gives BGR frames."""
    python = Path("/usr/bin/python3")
    check = (
        "import sys, cv2; sys.exit(sys.version_info < (3, 10) or 'GStreamer:                   YES' not in "
    )
    if (
        not python.exists()
        or subprocess.run(
            [python, "-c", check + "cv2.getBuildInformation())"], capture_output=True
        ).returncode
    ):
        pytest.skip("the system's Python has no OpenCV with GStreamer: apt-get install python3-opencv")
    # The package alone: beside an installed one lies the OpenCV from PyPI, which would be found first.
    (tmp_path / "edge_centernet").symlink_to(Path(cameras.__file__).parent)
    done = subprocess.run(
        [python, "-c", GST_PROGRAM],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2 (240, 320, 3) 0 10.0\n", done.stderr


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("rtsp://admin:secret@cam:554/h264", "rtsp://cam:554/h264"),
        ("rtsp://admin:se@cret@cam/h264", "rtsp://cam/h264"),
        ("rtsp://cam/Streaming/Channels/101", "rtsp://cam/Streaming/Channels/101"),
        ("rtsp://[fe80::1]:554/h264Preview_01_main", "rtsp://[fe80::1]:554/h264Preview_01_main"),
        ("http://cam/axis-cgi/mjpg/video.cgi", "http://cam/axis-cgi/mjpg/video.cgi"),
        ("http://cam/video?user=admin&password=x&channel=1", "http://cam/video?…&…&channel=1"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
        ("gst:rtspsrc location=rtsp://a:x@cam/ ! decodebin", "gst:rtspsrc location=rtsp://cam/ ! decodebin"),
        ("0", "0"),
        ("/home/me/a@b.mp4", "/home/me/a@b.mp4"),
    ],
)
def test_what_may_be_shown_of_a_name(name: str, public: str) -> None:
    """Host, port and the words that streams are named by; file names stay as they are."""
    assert public_name(name) == public


@pytest.mark.parametrize(
    "name",
    [
        *(
            "rtsp://admin:{}@cam/1",
            "rtsp://admin:{}/x@cam/1",
            "rtsp://admin:a/{}@cam/1",
            "rtsp://a:p@{}@cam/1",
        ),
        *("rtsp://admin:{} x@cam/1", "rtsp://admin:x?{}@cam/1", "rtsp://admin:{}", "rtsp:/admin:{}@cam/1"),
        *("rtsp://{}@cam/1", "RTSP://admin:{}@cam/1", "rtsp:admin:{}@cam/1", "rtsp://admin:x#{}@cam/1"),
        "rtsp://192.168.1.10:554/user=admin_password={}_channel=1_stream=0.sdp?real_stream",
        "rtsp://192.168.1.10:554/user=admin&password={}&channel=1&stream=0.sdp?",
        *(f"http://cam/video?{key}={{}}" for key in ("pwd", "token", "auth", "usr", "channel", "x&y&PASS")),
        *(
            "http://cam/video?{}",
            "http://cam/{}",
            "http://cam/{}.jpg",
            "http://cam/live;{}",
            "http://cam/a#{}",
        ),
        *(
            "rtsps://cam:7441/{}?enableSrtp",
            "rtmp://host/live/{}",
            "srt://host:9000?passphrase={}&mode=caller",
        ),
        *("http://cam/video?pass%77ord={}", "http://cam/video?password=%26{}", "http://cam/x@{}"),
        'gst:rtspsrc location=rtsp://cam user-id=admin user-pw="my {}" ! x',
        "gst:rtspsrc location=rtsp://cam user-id=admin user-pw='my ! {}' ! x",
        *("gst:rtspsrc location=rtsp://cam user-pw = {} ! x", "gst:srtsrc uri=srt://h passphrase={} ! x"),
        *('gst:x extra="a,Authorization={}" ! y', "rtspsrc location='rtsp://a:{}@cam/1' ! x"),
    ],
)
def test_no_secret_is_shown_of_a_name(name: str) -> None:
    """Wherever cameras want it, and however it is misspelt: the user's password, token or stream key."""
    secret = "S3cret9"
    assert secret not in public_name(name.format(secret))


def test_a_damaged_video_is_read_quietly(video: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """FFmpeg's own lines about broken frames do not reach stderr, and nothing else is hidden meanwhile."""
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    video.write_bytes(data)
    names, _ = read(str(video))
    assert 5 <= len(names) <= 10
    assert capfd.readouterr().err == ""


# ---- the network -----------------------------------------------------------------------------------

Answer = Callable[[str, socket.socket], None]


@pytest.fixture
def talk() -> Iterator[Callable[[Answer], str]]:
    """Start a server that gives each request to a function; returns HOST:PORT."""
    listening: list[socket.socket] = []

    def start(answer: Answer) -> str:
        sock = socket.create_server(("127.0.0.1", 0))
        listening.append(sock)

        def serve(client: socket.socket) -> None:
            with client, suppress(OSError):
                answer(client.recv(65536).decode(), client)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(sock.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for sock in listening:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def says(*parts: bytes) -> Answer:
    """A server that sends these to everybody."""
    return lambda request, client: [client.sendall(part) for part in parts] and None


def jpeg(level: int) -> bytes:
    """A picture of 32x32 pixels of one grey."""
    return bytes(cv2.imencode(".jpg", np.full((32, 32, 3), level, np.uint8))[1])


OK = b"HTTP/1.0 200 OK\r\n"
MULTIPART = OK + b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
LEVELS = (0, 60, 120, 180, 240)
PICTURES = [jpeg(level) for level in LEVELS]
# With a marker in it that looks like the end of the file, as in the thumbnail of a camera
EXIF = PICTURES[0][:2] + b"\xff\xe1\x00\x10Exif\0\0\xff\xd8\xff\xdb\xff\xd9\0\0" + PICTURES[0][2:]


def parts(before: bytes, after: bytes, pictures: list[bytes] = PICTURES) -> bytes:
    """All pictures, each between what a camera puts around it."""
    return b"".join(before % {b"size": len(data)} + data + after for data in pictures)


HEAD = b"Content-Type: image/jpeg\r\nContent-Length: %(size)d\r\n\r\n"


@pytest.mark.parametrize(
    "stream",
    [
        MULTIPART + parts(b"--frame\r\n" + HEAD, b"\r\n"),
        MULTIPART + parts(HEAD, b"\r\n--frame\r\n"),
        MULTIPART + parts(b"--frame\r\n" + HEAD, b"\r\n--frame\r\n"),
        (MULTIPART + parts(b"--frame\r\n" + HEAD, b"\r\n")).replace(b"\r\n", b"\n"),
        MULTIPART + parts(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n", b"\r\n"),
        MULTIPART + parts(b"--frame\r\nContent-Length: 7\r\n\r\n", b"\r\n"),
        MULTIPART.replace(b"=frame", b'="--other"') + parts(b"--frame\r\n" + HEAD, b"\r\n"),
        OK + b"\r\n" + parts(b"--frame\r\n" + HEAD, b"\r\n"),
        OK + b"Content-Type: video/x-motion-jpeg\r\n\r\n" + parts(b"", b""),
        MULTIPART + parts(b"--frame\r\n\r\n", b"\xff\0\r\n", [EXIF, *PICTURES[1:]]),
        MULTIPART + parts(b"--frame\r\n\r\n", b"", [EXIF, PICTURES[1][:300], *PICTURES[1:]]),
    ],
    ids=[
        *("usual", "esp32", "tasmota", "lf", "no-length", "wrong-length", "wrong-boundary", "no-type"),
        *("bare", "marker-in-header", "cut-picture"),
    ],
)
def test_motion_jpeg_plays_however_a_camera_writes_it(talk: Callable[[Answer], str], stream: bytes) -> None:
    """Boundaries early, doubled, late or wrong, other line ends, no lengths: all pictures, in order."""
    video = open_camera(f"http://{talk(says(stream))}/video")
    levels: list[float] = []
    with pytest.raises(SourceError, match=r"stopped after 5 frames"):
        levels.extend(frame.image.mean() for frame in video)
    video.close()
    np.testing.assert_allclose(levels, LEVELS, atol=2)


def test_a_stream_is_cut_into_pictures_however_it_arrives() -> None:
    """Byte by byte as in one piece; of noise and damage it keeps nothing, and goes on behind it."""
    noise = np.random.default_rng(3).integers(0, 256, 3000, np.uint8).tobytes()
    damaged = PICTURES[1][:20] + b"\0" + PICTURES[1][20:]
    stream = b"".join((noise, EXIF, damaged, b"\xff\xd8\xff", PICTURES[2], noise, PICTURES[3]))
    taken = []
    for size in (1, 7, len(stream)):
        cutter, pictures = network.JpegCutter(), []
        for at in range(0, len(stream), size):
            cutter.feed(stream[at : at + size])
            while (picture := cutter.take()) is not None:
                pictures.append(picture)
        taken.append(pictures)
    assert taken[0] == taken[1] == taken[2]
    assert taken[0][-1] == PICTURES[3]
    assert EXIF in taken[0]


@pytest.mark.parametrize(
    ("part", "filling", "reason"),
    [
        (HEAD % {b"size": 20} + b"\xff\xd8\xff\xda\0\2", b"\0", "a picture of more than 1 MB"),
        (HEAD % {b"size": 2_147_483_000}, b"\0", "0 MB without one"),
        (b"", b"X-A: 1\r\n", "0 MB without one"),
    ],
    ids=["endless", "length", "headers"],
)
def test_a_picture_without_end_takes_no_memory(
    talk: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, part: bytes, filling: bytes, reason: str
) -> None:
    """After a bound in bytes it is an error, and no more is read."""
    monkeypatch.setattr(network, "_MOST_PICTURE", 1 << 20)
    monkeypatch.setattr(network, "_MOST_BETWEEN", 1 << 19)
    sent = []

    def flood(request: str, client: socket.socket) -> None:
        client.sendall(MULTIPART + parts(HEAD, b"\r\n--frame\r\n") + part)
        for _ in range(1000):
            client.sendall(filling * (65536 // len(filling)))
            sent.append(65536)

    video = open_camera(f"http://{talk(flood)}/video")
    with pytest.raises(SourceError, match=f"expected JPEG pictures, got {reason}"):
        list(video)
    video.close()
    assert sum(sent) < 32 << 20  # what the system buffers


def test_damaged_pictures_only_are_an_error(
    talk: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of too many pixels is never decoded, and passed over; when nothing else comes, it is told."""
    monkeypatch.setattr(network, "_BROKEN_S", 0.1)
    frame = PICTURES[1].index(b"\xff\xc0")  # start of frame: then length, bits, height, width
    huge = PICTURES[1][: frame + 5] + b"\xff\xff\xff\xff" + PICTURES[1][frame + 9 :]

    def serve(request: str, client: socket.socket) -> None:
        client.sendall(MULTIPART + parts(HEAD, b"", [PICTURES[0], huge, PICTURES[2]]))
        while True:
            client.sendall(huge)
            time.sleep(0.02)

    video = open_camera(f"http://{talk(serve)}/video")
    levels: list[int] = []
    with pytest.raises(SourceError, match="65535x65535 is more than"):
        levels.extend(round(one.image.mean() / 60) for one in video)
    video.close()
    assert levels == [0, 2]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n", "401: it wants a user name"),
        (b"HTTP/1.0 403 No\r\n\r\n", "403: this address is forbidden"),
        (b"HTTP/1.0 404 No\r\n\r\n", "404: nothing is at this address"),
        (b"HTTP/1.0 500 \x1b[31m\r\n\r\n", "500 Internal Server Error"),
        (b"HTTP/1.0 503 No\r\n\r\n", "503: it is busy"),
        (
            b"HTTP/1.0 302 F\r\nLocation: file:///etc/passwd\r\n\r\n",
            "302: it redirects to something that is no",
        ),
        (b"HTTP/1.0 302 F\r\nLocation: ftp://127.0.0.1/\r\n\r\n", "302: it redirects|a redirection"),
        (OK + b"Content-Type: text/html\r\n\r\nx", "a web page; give the address of the stream itself"),
        (OK + b"\r\n \n<!DOCTYPE html>", "a web page; give the address of the stream itself"),
        (
            OK + b"Content-Type: image/jpeg\r\n\r\n" + PICTURES[0],
            "a single image; give .* or read .* --source",
        ),
        (OK + b"\r\n", "an empty answer"),
        (b"garbage\r\n\r\n", "an answer that is not right HTTP"),
        (OK + b"X: " + b"a" * 70000 + b"\r\n\r\n", "an answer that is not right HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", "an answer that is not right HTTP"),
        (b"", "no answer: it closed the connection"),
    ],
)
def test_what_is_no_stream_is_told_in_one_sentence(
    talk: Callable[[Answer], str], answer: bytes, reason: str
) -> None:
    """Each with what it is, and what to do; nothing that the server made up."""
    with pytest.raises(
        SourceError, match=f"^http://127.*: expected a stream that answers, got {reason}"
    ) as no:
        open_camera(f"http://{talk(says(answer))}/video")
    assert str(no.value).isprintable()


def login(kind: str) -> tuple[Answer, list[str]]:
    """A server that lets `me` with the password `a#b` in, and what it was shown."""
    shown: list[str] = []

    def serve(request: str, client: socket.socket) -> None:
        header = next((line for line in request.splitlines() if line.startswith("Authorization: ")), "")
        shown.append(header.removeprefix("Authorization: "))
        if kind == "Basic":
            right = shown[-1] == "Basic " + base64.b64encode(b"me:a#b").decode()
        else:
            md5 = [hashlib.md5(text).hexdigest() for text in (b"me:cam:a#b", b"GET:/a.jpg")]
            right = hashlib.md5(f"{md5[0]}:n0:{md5[1]}".encode()).hexdigest() in shown[-1]
        if right:
            client.sendall(OK + b"Content-Type: image/jpeg\r\n\r\n" + PICTURES[2])
        else:
            what = {"Basic": b'Basic realm="cam"', "Digest": b'Digest realm="cam", nonce="n0"'}[kind]
            client.sendall(b"HTTP/1.0 401 No\r\nWWW-Authenticate: " + what + b"\r\n\r\n")

    return serve, shown


@pytest.mark.parametrize("kind", ["Basic", "Digest"])
def test_an_image_behind_a_password(talk: Callable[[Answer], str], kind: str) -> None:
    """By both ways of HTTP, and never in a name; a wrong one is shown once, as cameras lock users out."""
    serve, shown = login(kind)
    place = talk(serve)
    (frame,) = open_source(f"http://me:a%23b@{place}/a.jpg")
    assert (frame.source, round(frame.image.mean())) == (f"http://{place}/…", 120)
    assert [text.partition(" ")[0] for text in shown] == ["", kind]
    with pytest.raises(SourceError, match=r"401: it does not accept this user name and password$") as refused:
        list(open_source(f"http://me:S3CRET@{place}/a.jpg"))
    assert "S3CRET" not in str(refused.value)
    assert len(shown) == 4


def test_a_password_goes_to_its_own_host_only(talk: Callable[[Answer], str]) -> None:
    """Not to where that host redirects to, and which asks for it."""
    serve, shown = login("Basic")
    other = talk(serve)
    place = talk(says(f"HTTP/1.0 302 F\r\nLocation: http://{other}/a.jpg\r\n\r\n".encode()))
    with pytest.raises(SourceError, match="401"):
        list(open_source(f"http://me:a%23b@{place}/a.jpg"))
    assert shown == [""]


@pytest.mark.parametrize("head", [OK + b"\r\n", OK + b"X: "], ids=["content", "headers"])
def test_an_image_that_trickles_is_given_up(
    talk: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    """One byte at a time is never silence; the time of all together has a limit."""
    monkeypatch.setattr(network, "_DOWNLOAD_S", 0.5)

    def trickle(request: str, client: socket.socket) -> None:
        client.sendall(head)
        while True:
            client.sendall(b"a")
            time.sleep(0.05)

    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot download: got no answer for 0 s"):
        list(open_source(f"http://{talk(trickle)}/a.jpg"))
    assert time.monotonic() - begin < 5


def test_a_download_that_is_cut_off_is_an_error(talk: Callable[[Answer], str]) -> None:
    """The bytes that are missing are counted."""
    place = talk(says(OK + b"Content-Length: 1000\r\n\r\nabc"))
    with pytest.raises(SourceError, match="cannot download: got 997 bytes less than the server announced"):
        list(open_source(f"http://{place}/a.jpg"))


def test_a_proxy_in_the_way_is_named(talk: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera at home is not behind the proxy of the office; no_proxy leads past it."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    camera = talk(says(MULTIPART + parts(HEAD, b"")))
    proxy = talk(says(b"HTTP/1.0 503 No\r\n\r\n"))
    monkeypatch.setenv("http_proxy", f"http://{proxy}")
    with pytest.raises(SourceError, match=r"got 503: .*\$http_proxy .* set no_proxy=127\.0\.0\.1$"):
        open_camera(f"http://{camera}/video")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    open_camera(f"http://{camera}/video").close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://[::1", "a host or port that cannot be"),
        ("http://h:99999/", "a host or port that cannot be"),
        ("http://h:S3CRET/x@cam/", "a host or port that cannot be; write %23 for #, %2F for /"),
        ("rtsp://a..b/", "a host or port that cannot be"),
        ("rtsp://" + "a" * 64 + "/", "a host or port that cannot be"),
        ("http://h:0/", "port 0"),
        ("rtsp:///1", "expected a host, got none"),
        ("rtsp://admin:S3CRET#x@cam/1", "expected a URL without #; write %23 for #"),
        ("rtsp://admin:S3 CRET@cam/1", "without spaces"),
        ("http://cam/a\nb", "without spaces and line ends"),
        ("rtsp:/admin:S3CRET@cam/1", "such as rtsp://host/path"),
        ("gopher://cam/1", "got gopher://"),
        ("unix:///run/x", "got unix://"),
        ("pipe://0", "got pipe://"),
        ("lavfi://testsrc", "got lavfi://"),
    ],
)
@pytest.mark.parametrize("open", [open_camera, open_source])
def test_a_url_that_cannot_be_is_one_line(open: Callable[[str], Any], url: str, reason: str) -> None:
    """Before anybody is asked, and without its password."""
    with pytest.raises(SourceError) as refused:
        open(url)
    assert reason in str(refused.value)
    assert "S3" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_av1_is_told_apart_from_damage() -> None:
    """A video that opens and gives no image, of the codec that OpenCV's FFmpeg most often lacks."""

    class Undecodable:
        def grab(self) -> bool:
            return False

        def get(self, prop: int) -> float:
            return float(int.from_bytes(b"av01", "little")) if prop == cv2.CAP_PROP_FOURCC else 0.0

        def release(self) -> None:
            """Nothing is open."""

    with pytest.raises(SourceError, match=r"its codec is AV1, which OpenCV.s packages cannot decode"):
        Video("clip.mp4", live=False, capture=Undecodable())


# ---- FFmpeg in a process of its own ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("401 Unauthorized", "401: it does not accept this user name and password"),
        ("404 Not Found", "404: nothing is at this address"),
        ("503 Service Unavailable", "503: it is busy"),
    ],
)
def test_what_an_rtsp_camera_refuses_is_told(talk: Callable[[Answer], str], status: str, reason: str) -> None:
    """The status that FFmpeg says on its way, in the same words as for HTTP."""

    def serve(request: str, client: socket.socket) -> None:
        while request:
            sequence = next(line for line in request.splitlines() if line.startswith("CSeq"))
            client.sendall(f"RTSP/1.0 {status}\r\n{sequence}\r\nContent-Length: 0\r\n\r\n".encode())
            request = client.recv(65536).decode()

    with pytest.raises(SourceError, match=f"expected a stream that answers, got {reason}") as refused:
        open_camera(f"rtsp://me:S3CRET@{talk(serve)}/1")
    assert "S3CRET" not in str(refused.value)


def test_a_stream_can_be_interrupted_and_its_url_is_in_no_command_line(talk: Callable[[Answer], str]) -> None:
    """Another thread ends a read that hangs, and with it the process that reads."""

    def stall(request: str, client: socket.socket) -> None:
        client.sendall(MULTIPART + 60 * parts(b"--frame\r\n" + HEAD, b"\r\n"))
        time.sleep(60)

    capture = network.FfmpegCapture(f"http://{talk(stall)}/S3CRET", live=True)
    assert b"S3CRET" not in Path(f"/proc/{capture.pid}/cmdline").read_bytes()
    threading.Timer(0.5, capture.interrupt).start()
    begin, count = time.monotonic(), 0
    while capture.grab():
        ok, image = capture.retrieve()
        assert ok
        assert image is not None
        assert image.shape == (32, 32, 3)
        count += 1
    assert count > 100
    assert time.monotonic() - begin < 10
    pid = capture.pid
    capture.release()
    assert not Path(f"/proc/{pid}").exists()


def test_the_memory_of_that_process_is_bounded() -> None:
    """What it allocates beyond the bound is an error there; the system's memory is not used up."""
    program = (
        "import numpy as np\n"
        "from edge_centernet.sources.network import _limit_memory\n"
        "_limit_memory(64 << 20)\n"
        "np.ones(32 << 20, np.uint8)\n"
        "try:\n    np.ones(128 << 20, np.uint8)\n"
        "except MemoryError:\n    print('bounded')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "bounded\n", done.stderr
