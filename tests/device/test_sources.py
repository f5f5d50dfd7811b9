"""Pictures, videos, cameras and URLs as frames."""

from __future__ import annotations

import functools
import http.server
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares

from edge_centernet.errors import SourceError
from edge_centernet.sources import Video, open_camera, open_source, quiet_libraries

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
        ("none.jpg", "no such file"),
        ("none.mp4", "no such file"),
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


@pytest.mark.parametrize("name", ["none.jpg", "none.mp4"])
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
