"""Does live detection stay as it is? `edge-centernet detect` at full speed with everything on and a fault every minute.

A camera faster than the network (100 fps, MJPEG over HTTP), a broker, a viewer of the page; every minute one of: the
camera is killed for 5 s, the camera freezes for 8 s, the broker is killed for 10 s, viewers come and vanish, the log is
rotated. Resident memory, threads and file descriptors of the process are read every second.

Writes docs/benchmarks/soak-MACHINE.{json,png,log}; exit code 1 if memory grew by a megabyte or more over the last two
thirds of the time (by a fitted line), threads or descriptors grew, or detection was not back ten seconds after a fault.

Example: python scripts/soak_live.py --minutes 30
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from edge_centernet.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("scripts", "tests", "tests/live")]

from broker import Mosquitto  # noqa: E402
from check_int8_speed import commit, cpu_name  # noqa: E402
from running import Detect, anything  # noqa: E402
from servers import Server, free_port, mjpeg_server  # noqa: E402

FAULT_EVERY_S = 60.0
BACK_S = 10.0
MOST_MB = 1.0


def start_detect(folder: Path, camera: str, broker: str, port: int) -> Detect:
    """With everything that it can do."""
    options: dict[str, object] = {
        **{"--camera": camera, "--classes": "person", "--frozen-after": "3", "--threads": "1"},
        **{"--count-line": "middle=0.5,0,0.5,1", "--zone": "left=0,0,0.5,0,0.5,1,0,1"},
        **{"--presence": "presence.png", "--counts": "counts.json", "--blur": "person"},
        **{"--mqtt": broker, "--serve": port, "--log-file": "detect.log"},
    }
    return Detect(*(word for option in options.items() for word in option), folder=folder, kept=1)


def sample(process: int) -> tuple[float, int, int]:
    """(resident megabytes, threads, file descriptors) of a process now."""
    folder = Path(f"/proc/{process}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024.0, int(status["Threads"]), len(list((folder / "fd").iterdir()))


class Faults:
    """What goes wrong, one after the other."""

    def __init__(self, camera: Server, broker: Mosquitto, detect: Detect, page: int, log: Path) -> None:
        """Nothing goes wrong yet. page: port of the live page."""
        self._camera, self._broker, self._detect, self._page, self._log = camera, broker, detect, page, log
        self._steps: list[Callable[[], float]] = [
            *(self.camera_killed, self.camera_frozen, self.broker_killed, self.viewers_vanish, self.log_rotated)
        ]
        self.happened: list[dict[str, Any]] = []

    def next(self) -> None:
        """The next one; how long detection took to be back."""
        step = self._steps[len(self.happened) % len(self._steps)]
        returned = step()
        while self._detect.newest < returned and time.monotonic() < returned + 30:
            time.sleep(0.02)
        back = round(max(0.0, self._detect.newest - returned), 2)
        self.happened.append({"fault": step.__name__.replace("_", " "), "back_s": back})

    def camera_killed(self) -> float:
        """As by a power cut, for 5 s."""
        self._camera.kill()
        time.sleep(5)
        self._camera.start()
        return time.monotonic()

    def camera_frozen(self) -> float:
        """It keeps its connection and sends nothing for 8 s."""
        self._camera.freeze()
        time.sleep(8)
        self._camera.thaw()
        return time.monotonic()

    def broker_killed(self) -> float:
        """For 10 s; detection must not notice."""
        self._broker.kill()
        time.sleep(10)
        self._broker.start()
        return time.monotonic()

    def viewers_vanish(self) -> float:
        """Four viewers read for a moment and are gone without a word."""
        for _ in range(4):
            stream = urllib.request.urlopen(f"http://127.0.0.1:{self._page}/stream.mjpg", timeout=10)
            stream.read(100_000)
            stream.close()
        return time.monotonic()

    def log_rotated(self) -> float:
        """Renamed, as logrotate does it."""
        if self._log.exists():
            self._log.rename(self._log.with_suffix(f".{len(self.happened)}"))
        return time.monotonic()


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Stem of the files, instead of the one named above.")
def main(minutes: float, out: Path | None) -> None:
    """Run, measure, write, judge."""
    stem = out or ROOT / f"docs/benchmarks/soak-{platform.machine()}"
    with tempfile.TemporaryDirectory() as name, mjpeg_server(path="/walk?fps=100") as camera:
        folder = Path(name)
        broker = Mosquitto(folder)
        broker.start()
        port = free_port()
        detect = start_detect(folder, camera.url, broker.url, port)
        faults = Faults(camera, broker, detect, port, folder / "detect.log")
        try:
            samples = watch(detect, port, faults, 60.0 * minutes)
            code = detect.end()
        finally:
            broker.kill()
            detect.close()
        logs = sorted(folder.glob("detect.*"), key=lambda path: path.stat().st_mtime)
        write_atomic(stem.with_suffix(".log"), "".join(path.read_text() for path in logs))
    record = report(samples, faults.happened, detect, code)
    write_atomic(stem.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    draw(samples, stem.with_suffix(".png"))
    click.echo(json.dumps({key: value for key, value in record.items() if key not in ("samples", "faults")}, indent=1))
    grew = max(
        record["threads"]["last"] - record["threads"]["first"], record["files"]["last"] - record["files"]["first"]
    )
    late = max(fault["back_s"] for fault in faults.happened)
    sys.exit(0 if record["memory"]["grew_mb"] < MOST_MB and grew <= 0 and late < BACK_S and code == 0 else 1)


def watch(detect: Detect, page: int, faults: Faults, seconds: float) -> list[dict[str, float]]:
    """A sample a second, faults on a thread of their own, one viewer all the time."""
    detect.wait_for(anything, 0, 30)
    stop = threading.Event()

    def trouble() -> None:
        while not stop.wait(FAULT_EVERY_S):
            faults.next()

    def look() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                stream = urllib.request.urlopen(f"http://127.0.0.1:{page}/stream.mjpg", timeout=10)
                while not stop.is_set() and stream.read(20_000):
                    pass

    threads = [threading.Thread(target=work, daemon=True) for work in (trouble, look)]
    for thread in threads:
        thread.start()
    begin, samples, before = time.monotonic(), [], detect.results
    while (now := time.monotonic() - begin) < seconds:
        memory, count, files = sample(detect.process.pid)
        results, before = detect.results - before, detect.results
        samples.append({"s": round(now, 1), "mb": round(memory, 2), "threads": count, "files": files, "fps": results})
        if len(samples) % 30 == 0:
            click.echo(f"{now:.0f} of {seconds:.0f} s: {memory:.1f} MB, {results} a second", err=True)
        time.sleep(max(0.0, begin + len(samples) - time.monotonic()))
    stop.set()
    threads[0].join(timeout=60)
    return samples


def report(samples: list[dict[str, float]], faults: list[dict[str, Any]], detect: Detect, code: int) -> dict[str, Any]:
    """What the samples say."""
    late = samples[len(samples) // 3 :]
    x, y = np.array([row["s"] for row in late]), np.array([row["mb"] for row in late])
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    span = float(x[-1] - x[0])
    third = len(late) // 3
    return {
        "seconds": samples[-1]["s"],
        "results": detect.results,
        "fps": statistics.median(row["fps"] for row in samples),
        "memory": {
            "first_mb": late[0]["mb"],
            "last_mb": late[-1]["mb"],
            "most_mb": max(row["mb"] for row in samples),
            "grew_mb": round(float(slope) * span, 3),  # by the line, over the last two thirds
            "standard_error_mb": round(float(np.sqrt(covariance[0, 0])) * span, 3),
        },
        **{
            name: {
                "first": statistics.median(row[name] for row in late[:third]),
                "last": statistics.median(row[name] for row in late[-third:]),
                "most": max(row[name] for row in samples),
            }
            for name in ("threads", "files")
        },
        "faults": faults,
        "exit_code": code,
        "counts": detect.records[-1][1]["lines"],
        "cpu": cpu_name(),
        "commit": commit(),
        "samples": samples[::10],
    }


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """Memory, rate, threads and descriptors over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    minutes = [row["s"] / 60.0 for row in samples]
    titles = {"mb": "resident MB", "fps": "results a second", "threads": "threads", "files": "file descriptors"}
    for axis, (key, title) in zip(figure.subplots(4, 1, sharex=True), titles.items(), strict=True):
        axis.plot(minutes, [row[key] for row in samples], linewidth=0.8)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    axis.set_xlabel("minutes")
    part = path.with_name(f".{path.name}")
    figure.savefig(part, format="png", dpi=110)
    shutil.move(part, path)


if __name__ == "__main__":
    main()
