"""Is the C letterbox as fast as OpenCV? 1280x720 -> 320x320 on one thread, in turns, as a ratio of medians.

    python scripts/bench_letterbox.py --rounds 200

Two rivals: `pad` is cv2.resize + cv2.copyMakeBorder and no more, `full` adds the order of colours and cv2.LUT, which
makes the network's int8 of it. The C code, built by cc at -O2 and at -O3, always does the whole work: straight
(pixel - 128) and through a table. YUYV and NV12 frames go through cv2.cvtColor before `full`. Equal bytes are checked
before anything is measured. Writes docs/benchmarks/letterbox-MACHINE.json.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from check_int8_speed import ROOT, commit, cpu_name, quantiles, take_turns
from numpy.typing import NDArray

from edge_centernet.files import write_atomic
from edge_centernet.image import read_image

sys.path.append(str(ROOT / "tests/decoder"))

from c_library import CImage, CInput

WIDTH, HEIGHT, SIDE = 1280, 720, 320
TOP = (SIDE - SIDE * HEIGHT // WIDTH) // 2
SOURCE = ROOT / "edge_centernet/decoder/edgecn_letterbox.c"
LEVELS = ("-O2", "-O3")
RGB, YUYV, NV12 = 0, 2, 3
Call = Callable[[], Any]
Image = NDArray[np.uint8]


@click.command()
@click.option("--rounds", default=200, show_default=True, help="Turns of each.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / f"docs/benchmarks/letterbox-{platform.machine()}.json"
)
def main(rounds: int, out: Path) -> None:
    """Measure, write and print."""
    cv2.setNumThreads(1)
    frames = frames_of(cv2.resize(read_image(ROOT / "edge_centernet/assets/sample.jpg"), (WIDTH, HEIGHT)))
    table = np.tile(np.arange(256, dtype=np.uint8) ^ 0x80, (3, 1))  # (3, 256)
    with tempfile.TemporaryDirectory() as folder:
        calls = opencv(frames, table)
        for level in LEVELS:
            calls |= compiled(level, Path(folder), frames, table)
        check(calls)
        seconds = take_turns(calls, rounds, warm_up=5)
    times = {name: [1e6 * value for value in values] for name, values in seconds.items()}
    record = report(times, rounds)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, json.dumps(record, indent=1) + "\n")
    for name, row in record["rows"].items():
        against = "  ".join(f"{row[key]:.2f} x {key}" for key in ("pad", "full") if key in row)
        click.echo(f"{name:24} {row['us']:7.1f} us  {against}")
    click.echo(out)


def frames_of(bgr: NDArray[Any]) -> dict[str, Image]:
    """One photo as a camera of each format gives it."""
    planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)  # Y, then U, then V of half the sides
    u, v = planes[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    pairs = np.stack([u, v], -1).reshape(HEIGHT // 2, WIDTH)
    yuyv = np.stack([planes[:HEIGHT], np.repeat(pairs, 2, axis=0)], -1)
    frames = {"rgb": bgr[..., ::-1], "yuyv": yuyv, "nv12": np.concatenate([planes[:HEIGHT], pairs])}
    return {name: np.ascontiguousarray(frame, np.uint8) for name, frame in frames.items()}


def opencv(frames: dict[str, Image], table: Image) -> dict[str, Call]:
    """Name -> what OpenCV does for it."""
    grey, lut = (128, 128, 128), np.ascontiguousarray(table.T[None])  # (1, 256, 3)
    rgb, yuyv, nv12 = frames["rgb"], frames["yuyv"], frames["nv12"]

    def pad(image: NDArray[Any]) -> NDArray[Any]:
        small = cv2.resize(image, (SIDE, SIDE - 2 * TOP), interpolation=cv2.INTER_LINEAR)
        return cv2.copyMakeBorder(small, TOP, TOP, 0, 0, cv2.BORDER_CONSTANT, value=grey)

    return {
        "cv2 rgb pad": lambda: pad(rgb),
        "cv2 rgb full": lambda: cv2.LUT(pad(rgb), lut),
        "cv2 yuyv full": lambda: cv2.LUT(pad(cv2.cvtColor(yuyv, cv2.COLOR_YUV2RGB_YUY2)), lut),
        "cv2 nv12 full": lambda: cv2.LUT(pad(cv2.cvtColor(nv12, cv2.COLOR_YUV2RGB_NV12)), lut),
    }


def compiled(level: str, folder: Path, frames: dict[str, Image], table: Image) -> dict[str, Call]:
    """Name -> what the C library built at `level` does for it."""
    path = folder / f"letterbox{level}.so"
    subprocess.run([compiler(), "-std=c99", level, "-shared", "-fPIC", SOURCE, "-o", path], check=True)
    library = ctypes.CDLL(str(path))
    calls = {}
    for name, pixel_format, values in (
        ("rgb", RGB, None), ("rgb table", RGB, table), ("yuyv", YUYV, None), ("nv12", NV12, None)
    ):  # fmt: skip
        calls[f"c {level} {name}"] = c_call(library, frames[name.split()[0]], pixel_format, values)
    return calls


def c_call(library: ctypes.CDLL, frame: Image, pixel_format: int, table: Image | None) -> Call:
    """A call of ecn_letterbox into a tensor of its own, which it returns."""
    stride = frame[0].nbytes
    chroma = frame.ctypes.data + HEIGHT * stride if pixel_format == NV12 else None
    image = CImage(frame.ctypes.data, chroma, pixel_format, WIDTH, HEIGHT, stride, stride)
    out = np.empty((SIDE, SIDE, 3), np.uint8)
    place = CInput(out.ctypes.data, None if table is None else table.ctypes.data, SIDE, SIDE, 1, 0, RGB, 128)
    work = np.empty(library.ecn_letterbox_work(SIDE) // 2, np.int16)
    arguments = (ctypes.byref(image), ctypes.byref(place), ctypes.c_void_p(work.ctypes.data), work.nbytes, None)

    def call() -> Image:
        if library.ecn_letterbox(*arguments) != 0:
            raise RuntimeError("ecn_letterbox: expected 0")
        return out

    call.keep = (frame, image, place, work, table)  # type: ignore[attr-defined]
    return call


def check(calls: dict[str, Call]) -> None:
    """Stop unless the C library gives OpenCV's bytes."""
    for name, call in calls.items():
        if name.startswith("c "):
            wrong = int(np.count_nonzero(call() != calls[f"cv2 {name.split()[2]} full"]()))
            if wrong:
                raise click.ClickException(f"{name}: {wrong} bytes differ from OpenCV's")


def report(times: dict[str, list[float]], rounds: int) -> dict[str, Any]:
    """What is written: medians, spreads, and for C the ratios to OpenCV's two ways."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows: dict[str, Any] = {}
    for name, values in times.items():
        rows[name] = {"us": round(medians[name], 1), "p10_p90_us": [round(q, 1) for q in quantiles(values)]}
        if name.startswith("c "):
            for rival in ("pad", "full"):
                other = medians.get(f"cv2 {name.split()[2]} {rival}")
                if other is not None:
                    rows[name][rival] = round(medians[name] / other, 3)
    return {
        "image": [WIDTH, HEIGHT], "input": [SIDE, SIDE], "rows": rows, "rounds": rounds, "threads": 1,
        "versions": {"opencv": cv2.__version__, "compiler": compiler_version()},
        "machine": {"arch": platform.machine(), "cpu": cpu_name(), "python": platform.python_version()},
        "commit": commit(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


def compiler() -> str:
    """$CC or cc."""
    return os.environ.get("CC") or "cc"


def compiler_version() -> str:
    """The first line of its --version."""
    done = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


if __name__ == "__main__":
    main()
