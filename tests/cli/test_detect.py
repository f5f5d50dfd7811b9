"""`edge-centernet detect`, as its users run it."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from support import ENGINES, allow_interrupts

import edge_centernet
from edge_centernet.detections import Detections
from edge_centernet.outputs.clips import find_ffmpeg
from edge_centernet.outputs.records import Csv
from edge_centernet.sources import CaptureState, Frame
from edge_centernet.tracking.state import Snapshot

Run = Callable[..., Any]
Write = Callable[[Path, Any], Path]
SCENE = squares.scene(("red", 10, 18), ("green", 58, 38), ("blue sky", 90, 6))
RECORD = {
    "source": str,
    "frame": int,
    "width": int,
    "height": int,
    "detections": list,
    "ms": dict,
}


@pytest.fixture
def photo(tmp_path: Path, write_image: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture with three squares, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return write_image(tmp_path / "photo.png", SCENE)


@pytest.fixture
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight frames with one red square."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (squares.WIDTH, squares.HEIGHT))
    for _ in range(8):
        writer.write(squares.scene(("red", 10, 18)))
    writer.release()
    return path


def on_terminal(*arguments: object) -> tuple[int, str]:
    """Exit status of `edge-centernet ARGUMENTS` and all that it showed on a terminal."""
    main, screen = pty.openpty()
    command = [sys.executable, "-m", "edge_centernet", *map(str, arguments)]
    root = str(Path(edge_centernet.__file__).parents[1])
    with subprocess.Popen(
        command, stdin=screen, stdout=screen, stderr=screen, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        os.close(screen)
        shown = b""
        with suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(main, 1 << 16):
                shown += data
    os.close(main)
    return process.returncode, shown.decode().replace("\r\n", "\n")


def test_a_terminal_shows_a_line_for_each_image(photo: Path, onnx_model: Path) -> None:
    """What was found, in words, instead of records; a folder keeps these nevertheless."""
    code, shown = on_terminal("detect", "photo.png", "--model", onnx_model, "--out", "o")
    assert code == 0
    assert re.search(r"^photo\.png: 1 \w+( sky)?, 1 \w+( sky)?, 1 \w+( sky)?, \d+ ms$", shown, re.M)
    assert '"detections"' not in shown
    assert json.loads(Path("o/detections.jsonl").read_text())["source"] == "photo.png"
    _, shown = on_terminal("detect", "photo.png", "--model", onnx_model, "--format", "jsonl", "--no-save")
    assert '"source": "photo.png"' in shown


def test_a_terminal_shows_how_far_a_video_is(video: Path, onnx_model: Path) -> None:
    """A bar up to the last frame."""
    code, shown = on_terminal("detect", "clip.avi", "--model", onnx_model)
    assert code == 0
    assert "8/8" in shown
    assert "8 detections in 8 frames" in shown
    assert '"detections"' not in shown


def test_files_are_one_list_of_images(
    run: Run, tmp_path: Path, write_image: Write, onnx_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell expands photos/*: each once, folders read, what is no image named in one line."""
    monkeypatch.chdir(tmp_path)
    for name in ("p/b.png", "p/a.png", "p/sub/c.png", "p/sub/deep/d.png", "p/.hidden/e.png"):
        write_image(tmp_path / name, SCENE)
    Path("p/notes.txt").write_text("x")
    quiet = ("--model", onnx_model, "--no-save")

    def names(*arguments: str) -> tuple[list[str], str]:
        done = run("detect", *arguments, *quiet)
        assert done.code == 0, done.err
        return [json.loads(line)["source"] for line in done.out.splitlines()], done.err

    read, said = names("p/b.png", "p/notes.txt", "p/sub", "p/b.png")
    assert read == ["p/b.png", "p/sub/c.png"]
    over = "4 files and folders: passed over 1 file of other types (1 .txt) and 1 folder, which --recursive"
    assert over in said
    read, said = names("p", "--recursive")
    assert read == ["p/a.png", "p/b.png", "p/sub/c.png", "p/sub/deep/d.png"]
    assert "p: passed over 1 file of other types (1 .txt)\n" in said
    assert names("p/a.png") == names("--source", "p/a.png")


def test_folders_of_runs_count_up(run: Run, photo: Path, onnx_model: Path) -> None:
    """A second run overwrites nothing and says where it wrote; --out is taken as given."""
    quiet = ("--model", onnx_model, "--format", "none")
    said = [run("detect", "photo.png", *quiet).err for _ in range(3)]
    assert [line.splitlines()[-1] for line in said] == [
        f"Annotated copy: detections{number}/photo.png" for number in ("", "2", "3")
    ]
    for _ in range(2):
        assert "Annotated copy: mine/photo.png" in run("detect", "photo.png", *quiet, "--out", "mine").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("0", "photo.png"), "expected cameras or files, got both: 0 is a camera"),
        (("photo.png", "http://127.0.0.1:9/a.jpg"), "expected files and folders where there are several"),
        (("clip.mp4", "clip.mp4"), "expected images"),
        (("photo.png", "--recursive"), "--recursive: expected a folder"),
        (("photo.png", "photo.png", "--pace", "real"), "--pace real: expected one video, got 2 files"),
        (("photo.png", "none.mp4"), "none.mp4: no such file; expected an image or a folder of images"),
        (("rtsp://127.0.0.1:9/stream",), "expected a stream that answers"),
        (("98",), "camera 98: no such camera"),
    ],
)
def test_what_is_no_source_is_told(
    run: Run, photo: Path, onnx_model: Path, arguments: tuple[str, ...], says: str
) -> None:
    """A number and rtsp:// are cameras, all else files."""
    Path("clip.mp4").write_bytes(bytes(100))
    done = run("detect", *arguments, "--model", onnx_model)
    assert done.code == 2
    assert says in done.err


@pytest.mark.parametrize("engine", ENGINES)
def test_json_lines(run: Run, photo: Path, artifacts: dict[tuple[str, str], Path], engine: str) -> None:
    """Standard output holds one object per frame with the documented keys; the rest is on standard error."""
    done = run("detect", "--source", photo, "--model", artifacts[engine, "int8"], "--threads", 1)
    assert done.code == 0
    (line,) = done.out.splitlines()
    record = json.loads(line)
    assert {key: type(value) for key, value in record.items()} == RECORD
    assert (record["source"], record["frame"], record["width"], record["height"]) == (str(photo), 0, 128, 96)
    assert list(record["ms"]) == ["preprocess", "inference", "decode"]
    first = min(record["detections"], key=lambda d: d["class_id"])
    assert list(first) == ["class", "class_id", "score", "box"]
    assert (first["class"], first["class_id"]) == ("red", 0)
    np.testing.assert_allclose(first["box"], [10, 18, 34, 42], atol=0.1)
    assert 0.9 < first["score"] <= 1
    assert "Using " in done.err
    assert "3 detections in 1 image" in done.err


def test_says_where_the_annotated_picture_is(run: Run, photo: Path, onnx_model: Path) -> None:
    """./detections/NAME by default; the boxes are drawn in it, the original is untouched."""
    before = photo.read_bytes()
    done = run("detect", "--source", photo, "--model", onnx_model)
    assert "Annotated copy: detections/photo.png" in done.err
    drawn = cv2.imread("detections/photo.png")
    assert drawn.shape == SCENE.shape
    assert not np.array_equal(drawn, SCENE)
    assert photo.read_bytes() == before


def test_no_save_leaves_nothing(run: Run, photo: Path, onnx_model: Path) -> None:
    """Only the records."""
    assert run("detect", "--source", photo, "--model", onnx_model, "--no-save").code == 0
    assert sorted(os.listdir()) == ["photo.png"]


def test_out_keeps_the_records_too(run: Run, photo: Path, onnx_model: Path) -> None:
    """DIR/detections.jsonl holds what standard output showed; no temporary file stays."""
    done = run("detect", "--source", photo, "--model", onnx_model, "--out", "a/b")
    assert Path("a/b/detections.jsonl").read_text() == done.out
    assert sorted(os.listdir("a/b")) == ["detections.jsonl", "photo.png"]


def test_coco(run: Run, photo: Path, onnx_model: Path) -> None:
    """A document that pycocotools loads, boxes as x, y, width, height."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    done = run("detect", "--source", photo, "--model", onnx_model, "--format", "coco", "--out", "o")
    assert json.loads(done.out) == json.loads(Path("o/detections.json").read_text())
    coco = COCO("o/detections.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(squares.CLASSES)
    (red,) = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(catNms=["red"])))
    np.testing.assert_allclose(red["bbox"], [10, 18, 24, 24], atol=0.1)
    assert coco.loadImgs([red["image_id"]])[0]["file_name"] == str(photo)


def test_csv(run: Run, photo: Path, onnx_model: Path) -> None:
    """A header and one row a detection."""
    done = run("detect", "--source", photo, "--model", onnx_model, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert sorted(row["class"] for row in rows) == sorted(squares.CLASSES)
    red = next(row for row in rows if row["class"] == "red")
    np.testing.assert_allclose([float(red[k]) for k in ("x1", "y1", "x2", "y2")], [10, 18, 34, 42], atol=0.1)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@sum", "'@sum"),
        ("\uff1d1", "'\uff1d1"),
        (" =1", "' =1"),
        ("a;=1", "a;'=1"),
        ("a\t=1", "a\t'=1"),
        ("a\n=1", "a\n'=1"),
        ("\r=1", r"\u000d=1"),
        ("\x1b[2J", r"\u001b[2J"),
        ("a=b-c@d/e.png", "a=b-c@d/e.png"),
        ("blue sky", "blue sky"),
    ],
)
def test_no_cell_of_csv_is_a_formula(text: str, cell: str) -> None:
    """Neither for a spreadsheet that separates by commas nor for one that does by semicolons or tabs."""
    box = Detections(np.array([[-4.0, 5, 6, 7]]), np.array([0.5]), np.array([0]))
    frame = Frame(text, 0, np.zeros((9, 9, 3), np.uint8))
    written = Csv([text]).add(Snapshot(frame, box, {}, 0.0, 0.0, CaptureState()))
    _, row = csv.reader(io.StringIO(written, newline=""))
    assert row == [cell, "0", "9", "9", cell, "0", "0.5", "-4.0", "5.0", "6.0", "7.0"]


def test_control_characters_of_a_name_are_escapes_in_records(run: Run, photo: Path, onnx_model: Path) -> None:
    """The value is the file's name, and a terminal that shows the line or the file does nothing."""
    name = "a\x1b]0;x\x07\x9b\u202e.png"
    photo.rename(name)
    for format_name in ("jsonl", "coco", "csv"):
        done = run("detect", "--source", name, "--model", onnx_model, "--format", format_name, "--out", "o")
        assert done.out.replace("\n", "").isprintable()
        assert done.err.replace("\n", "").isprintable()
        if format_name == "jsonl":
            assert json.loads(done.out)["source"] == name
            assert Path("o/detections.jsonl").read_text() == done.out


def test_options_reach_the_detector(run: Run, photo: Path, onnx_model: Path) -> None:
    """Classes, limit and threshold."""
    base = ("detect", "--source", photo, "--model", onnx_model, "--no-save")

    def classes(*more: Any) -> list[str]:
        return [d["class"] for d in json.loads(run(*base, *more).out)["detections"]]

    assert classes("--classes", "green, blue sky", "--max-detections", 1) in (["green"], ["blue sky"])
    assert len(classes("--max-detections", 2)) == 2
    assert classes("--threshold", 1) == []


def test_nothing_found_is_success(run: Run, tmp_path: Path, write_image: Write, onnx_model: Path) -> None:
    """An empty list and exit code 0."""
    grey = write_image(tmp_path / "grey.png", squares.scene())
    done = run("detect", "--source", grey, "--model", onnx_model, "--no-save")
    assert done.code == 0
    assert json.loads(done.out)["detections"] == []


def test_a_folder_with_a_bad_file(run: Run, photo: Path, onnx_model: Path, write_image: Write) -> None:
    """Skipped, warned about, counted; exit code 0."""
    write_image(Path("photos/a.png"), SCENE)
    write_image(Path("photos/c.png"), SCENE)
    Path("photos/b.jpg").write_text("no picture")
    done = run("detect", "--source", "photos", "--model", onnx_model)
    assert done.code == 0
    assert len(done.out.splitlines()) == 2
    assert "Warning: skipped photos/b.jpg" in done.err
    assert "6 detections in 2 images, 1 skipped" in done.err
    assert sorted(os.listdir("detections")) == ["a.png", "c.png"]


@pytest.mark.parametrize("format_name", ["jsonl", "csv", "coco"])
def test_a_name_that_is_not_utf_8_does_not_end_the_run(
    run: Run, photo: Path, onnx_model: Path, write_image: Write, format_name: str
) -> None:
    """It is escaped in the records; the annotated copy keeps the name that the image has."""
    odd = os.fsdecode(b"photos/b\xe9.png")
    for name in ("photos/a.png", "photos/c.png"):
        write_image(Path(name), SCENE)
    Path("photos/a.png").rename(odd)
    options = ("--format", format_name, "--out", "o", "--model", onnx_model)
    done = run("detect", "--source", "photos", *options)
    assert done.code == 0
    assert "6 detections in 2 images" in done.err
    (records,) = Path("o").glob("detections.*")
    escaped = "b\\\\udce9.png" if format_name != "csv" else "b\\udce9.png"
    assert f"photos/{escaped}" in records.read_text(encoding="utf-8")
    assert {os.fsencode(path.name) for path in Path("o").glob("*.png")} == {b"b\xe9.png", b"c.png"}
    assert run("detect", "--source", odd, *options).code == 0


def test_a_copy_never_replaces_an_original_whose_name_is_not_utf_8(
    run: Run, photo: Path, onnx_model: Path, write_image: Write
) -> None:
    """It is found by the name on the disk, not by the one in the records."""
    odd = os.fsdecode(b"photos/b\xe9.png")
    write_image(Path("photos/a.png"), SCENE).rename(odd)
    write_image(Path("photos/c.png"), SCENE)
    done = run("detect", "--source", "photos", "--out", "photos", "--model", onnx_model)
    assert done.code == 2
    assert "would replace the original" in done.err


def test_equal_names_in_two_folders_are_both_kept(
    run: Run, photo: Path, onnx_model: Path, write_image: Write
) -> None:
    """Annotated copies keep the folders below the common one."""
    for folder in ("p/one", "p/two"):
        write_image(Path(folder, "a.png"), SCENE)
    assert run("detect", "--source", "p/*/*.png", "--model", onnx_model).code == 0
    assert sorted(str(p) for p in Path("detections").rglob("*.png")) == [
        "detections/one/a.png",
        "detections/two/a.png",
    ]


def test_video_in_video_out(run: Run, video: Path, onnx_model: Path) -> None:
    """A line a frame; an annotated MP4 with as many frames at the same rate."""
    done = run("detect", "--source", video, "--model", onnx_model)
    assert [json.loads(line)["frame"] for line in done.out.splitlines()] == list(range(8))
    assert "Annotated copy: detections/clip.mp4" in done.err
    capture = cv2.VideoCapture("detections/clip.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 8
    assert os.listdir("detections") == ["clip.mp4"]


def test_an_annotated_video_plays_in_a_browser(
    run: Run, video: Path, onnx_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H.264 where ffmpeg has it; without the program a line says that it is for players only."""

    def codec() -> str:
        code = int(cv2.VideoCapture("o/clip.mp4").get(cv2.CAP_PROP_FOURCC))
        return code.to_bytes(4, "little").decode()

    quiet = ("detect", "clip.avi", "--model", onnx_model, "--format", "none", "--out", "o")
    if (ffmpeg := find_ffmpeg()) is None or ffmpeg.suffix != ".mp4":
        pytest.skip("no ffmpeg with H.264 is installed")
    assert "MPEG-4" not in run(*quiet).err
    assert codec() in ("h264", "avc1")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "o/clip.mp4: written as MPEG-4 for players; browsers need H.264" in run(*quiet).err
    assert codec() in ("FMP4", "mp4v")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "expected what to detect in: a photo, folder"),
        (("--source", "photo.png", "--camera", "0"), "--source photo.png: expected only cameras and streams"),
        (("--source", "photo.png", "--source", "b.png"), "name files and folders without --source"),
        (("--camera", "0", "--camera", "1", "--format", "csv"), "--format csv: expected jsonl or none"),
        (
            ("--camera", "0", "--camera", "1", "--name", "door"),
            "several have their names in [[camera]] tables",
        ),
        (("--source", "none.jpg"), "none.jpg: no such file; expected an image, a video or a"),
        (("--source", "empty.jpg"), "empty.jpg: expected an image, got an empty file"),
        (("--source", "text.jpg"), "text.jpg: expected a JPEG"),
        (("--source", "folder"), "found none"),
        (("--source", "*.gif"), "no file matches"),
        (("--source", "cut.png"), "cut.png: the image is cut off"),
        (("--camera", "97"), "camera 97: no such camera"),
        (("--source", "x" * 300), "File name too long"),
        (
            ("--source", "photo.png", "--classes", "dog"),
            "unknown class 'dog': this model knows red, green, blue sky",
        ),
        (("--source", "photo.png", "--classes", ""), "unknown class ''"),
        (("--source", "photo.png", "--out", "photo.png"), "cannot write there"),
        (("--source", "photo.png", "--out", "/proc/nowhere"), "cannot write there"),
        (("--source", "photo.png", "--threshold", "7"), "--threshold"),
        (("--source", "photo.png", "--threshold", "nan"), "threshold"),
        (("--source", "photo.png", "--threads", "0"), "--threads"),
        (("--source", "photo.png", "--runtime", "tflite"), "onnxruntime"),
        (
            ("--source", "photo.png", "--model", "none.tflite"),
            "none.tflite: no such file; expected a model file, or a name that 'edge-centernet models'",
        ),
        (("--source", "photo.png", "--model", "nonesuch"), "no shipped model of that name"),
        (("--source", "photo.png", "--model", "cut.onnx"), "cut.onnx: the model file is cut off"),
        (("--source", "photo.png", "--out", "."), "would replace the original"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    run: Run, photo: Path, onnx_model: Path, args: tuple[str, ...], says: str
) -> None:
    """One line of explanation on stderr (two of usage may precede it), nothing on stdout, exit code 2."""
    Path("empty.jpg").write_bytes(b"")
    Path("text.jpg").write_text("text")
    Path("folder").mkdir()
    Path("cut.png").write_bytes(photo.read_bytes()[:-20])
    Path("cut.onnx").write_bytes(onnx_model.read_bytes()[:9000])
    model = () if "--model" in args else ("--model", onnx_model)
    done = run("detect", *args, *model)
    assert done.code == 2
    assert done.out == ""
    errors = [
        line for line in done.err.splitlines() if not line.startswith(("Usage:", "Try ", "Using ")) and line
    ]
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    assert says in errors[0]


def test_the_picked_runtime_is_named(run: Run, photo: Path, onnx_model: Path) -> None:
    """Engine, precision and file."""
    done = run("detect", "--source", photo, "--model", onnx_model, "--no-save")
    assert f"Using ONNX Runtime on CPU, int8: {onnx_model}" in done.err.splitlines()


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [(signal.SIGINT, 130, "Interrupted."), (signal.SIGHUP, 0, "Annotated cop")],
)
def test_a_signal_ends_it_cleanly(
    tmp_path: Path, onnx_model: Path, number: signal.Signals, code: int, last: str
) -> None:
    """In the middle of a folder: whole lines, no traceback, no temporary file; also if a terminal closes."""
    folder = tmp_path / "many"
    folder.mkdir()
    data = cv2.imencode(".png", cv2.resize(SCENE, (1280, 960)))[1].tobytes()
    for i in range(2000):
        (folder / f"{i:04}.png").write_bytes(data)
    args = (
        "-m",
        "edge_centernet",
        "detect",
        "--source",
        str(folder),
        "--model",
        str(onnx_model),
        "--out",
        "o",
    )
    child = subprocess.Popen(
        squares.python(*args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
        preexec_fn=allow_interrupts,
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code
    lines = (first + out).splitlines()
    assert all(json.loads(line)["frame"] == 0 for line in lines)
    assert 1 <= len(lines) < 2000
    assert err.splitlines()[-1].startswith(last)
    assert "Traceback" not in err
    assert not [p for p in (tmp_path / "o").iterdir() if p.name.startswith(".")]
    kept = (tmp_path / "o" / "detections.jsonl").read_text().splitlines()
    assert kept[: len(lines)] == lines
    assert len(kept) <= len(lines) + 1


def test_sigterm_ends_it_when_nobody_reads(tmp_path: Path, onnx_model: Path) -> None:
    """A pipe that is full: it waits for the reader, but not once a signal came; the file has whole lines."""
    folder = tmp_path / "many"
    folder.mkdir()
    data = cv2.imencode(".png", SCENE)[1].tobytes()
    for i in range(100):
        (folder / f"{i:04}.png").write_bytes(data)
    args = ("-m", "edge_centernet", "detect", "--source", "many", "--model", str(onnx_model), "--no-save")
    child = subprocess.Popen(
        squares.python(*args, "--out", "o"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert child.stdout is not None
    fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 4096)
    kept, size, until = tmp_path / "o" / "detections.jsonl", -1, time.monotonic() + 60
    while not kept.exists() or size != kept.stat().st_size or size == 0:  # until no more comes
        assert time.monotonic() < until
        size = kept.stat().st_size if kept.exists() else -1
        time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=20) == 2
    assert child.stderr is not None
    assert "standard output: the records of 1 frames were lost" in child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    lines = kept.read_text().splitlines()
    assert 1 < len(lines) < 100
    assert all(json.loads(line)["frame"] == 0 for line in lines)


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, onnx_model: Path, write_image: Write) -> None:
    """`| head -1`: quiet."""
    for i in range(40):
        write_image(tmp_path / "many" / f"{i:02}.png", SCENE)
    args = ("-m", "edge_centernet", "detect", "--source", "many", "--model", str(onnx_model), "--no-save")
    child = subprocess.Popen(
        squares.python(*args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 1
    assert [line for line in err.splitlines() if not line.startswith("Using ")] == []


def test_a_recording_is_counted_into_a_store_once(run: Run, video: Path, onnx_model: Path) -> None:
    """Again, or an earlier one, is refused in one line; a later one is added with the gap between."""
    line = ("--count-line", "door=0.5,1,0.5,0", "--store", "a.db", "--format", "none", "--no-save")

    def count(*options: str) -> tuple[int, str]:
        done = run("detect", video, "--model", onnx_model, *line, *options)
        return done.code, done.err.splitlines()[-1]

    assert count("--recorded", "2026-11-24T09:00")[0] == 0
    for options, said in (
        ((), "Error: --store a.db: it has counts already, and those of a recording would be added"),
        (("--recorded", "2026-11-24 09:00"), "it has counts up to 2026-11-24 09:00:00 already"),
        (("--recorded", "2026-11-23"), "name a new file to count again, or for an earlier recording"),
        (("--recorded", "yesterday"), "expected a time such as 2026-11-24T09:00, got 'yesterday'"),
        (("--pace", "real", "--recorded", "2026-11-25"), "expected with a video file alone"),
    ):
        code, last = count(*options)
        assert code == 2
        assert said in last
    assert count("--recorded", "2026-11-25T09:00")[0] == 0
    report = run("report", "a.db", "--html", "a.html")
    assert report.out.startswith("clip.avi: 2026-11-24 09:00 to 2026-11-25 09:00")
    assert "watched 0.0%" in report.out
    assert report.err == "a.html\n"


def test_lines_come_as_the_frames_do(tmp_path: Path, video: Path, onnx_model: Path) -> None:
    """Standard output is flushed after each frame: a pipe sees the first before the last is read."""
    args = ("-m", "edge_centernet", "detect", "--source", str(video), "--model", str(onnx_model), "--no-save")
    child = subprocess.Popen(
        squares.python(*args), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    assert child.stdout is not None
    arrived = [time.perf_counter() for _ in child.stdout]
    assert child.wait(timeout=60) == 0
    child.stdout.close()
    assert len(arrived) == 8
    assert len(set(arrived)) == 8


def environment() -> dict[str, str]:
    """With the package importable from another folder."""
    import edge_centernet

    root = str(Path(edge_centernet.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_the_model_of_the_environment_is_taken_unless_another_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release names its model so; the configuration file and the command line win."""
    monkeypatch.setenv("EDGE_CENTERNET_MODEL", "centernet-nano-256")
    config = tmp_path / "camera.toml"
    config.write_text('model = "centernet-mbv2-320"\n')
    photo = Path(edge_centernet.__file__).parent / "assets" / "sample.jpg"
    common = ["detect", "--source", photo, "--no-save"]
    assert "centernet-nano-256" in run(*common).err
    assert "centernet-mbv2-320" in run(*common, "--config", config).err
    assert "centernet-mbv2-320" in run(*common, "--model", "centernet-mbv2-320").err
