"""What do viewers cost detection? `edge-centernet detect --serve` in turns without and with five viewers of its page.

One viewer is a real browser (headless Chromium the size of a phone), four read /stream.mjpg. They run on this computer
too, where a real one would send to others: they get the lowest priority, so that they take only what is left, as far as
the processor's cores allow. Two cameras: one of 30 fps, which leaves the network time, and one faster than the network.

In each turn with viewers the page is looked at: does its picture change from look to look, and are its counts those of
detection's records? Writes docs/benchmarks/viewers-MACHINE.json and the browser's last screenshot beside it; exit code
1 if the median turn loses 5 % of the rate or more, a picture stood still, or a count was wrong.

Example: python scripts/check_viewers.py --turns 8
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edge_centernet.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("scripts", "tests", "tests/live")]

from browser import NEEDS, Browser, find_programs, pixels, soon  # noqa: E402
from check_int8_speed import commit, cpu_name  # noqa: E402
from running import Detect, anything  # noqa: E402
from servers import free_port, mjpeg_server  # noqa: E402

STREAMS = 4
LOOKS = 8
MOST_LOSS = 0.05
CAMERAS = {"30 fps": "/walk", "faster than the network": "/walk?fps=160"}


@click.command()
@click.option("--turns", default=8, show_default=True, help="Without and with viewers, of each camera.")
@click.option("--seconds", default=10.0, show_default=True, help="Of each half of a turn.")
@click.option("--model", help="Name or file.  [default: the shipped one]")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file instead of the one named above.")
def main(turns: int, seconds: float, model: str | None, out: Path | None) -> None:
    """Measure, write, print, judge."""
    programs = find_programs()
    if programs is None:
        raise click.ClickException(f"expected {NEEDS}")
    path = out or ROOT / f"docs/benchmarks/viewers-{platform.machine()}.json"
    rows = {}
    for name, camera in CAMERAS.items():
        click.echo(f"camera of {name}", err=True)
        rows[name] = measure(camera, model, programs, turns, seconds, path.with_suffix(".png"))
    record = {"viewers": STREAMS + 1, "cameras": rows, "cores": os.cpu_count(), "cpu": cpu_name(), "commit": commit()}
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    click.echo(json.dumps(record, indent=1))
    sys.exit(0 if all(row["well"] for row in rows.values()) else 1)


def measure(
    camera: str, model: str | None, programs: tuple[str, str], turns: int, seconds: float, screenshot: Path
) -> dict[str, Any]:
    """One camera: rates in turns, and what the page showed."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, mjpeg_server(path=camera) as server:
        options = ["--camera", server.url, "--classes", "person", "--threads", 1, "--serve", port]
        options += ["--count-line", "middle=0.5,0,0.5,1", *(["--model", model] if model else [])]
        detect = Detect(*options, folder=Path(folder), kept=400)
        try:
            detect.wait_for(anything, 0, 30)
            time.sleep(2)
            pairs, shown = [], []
            for turn in range(turns):
                alone = rate(detect, seconds)
                with viewers(port, programs) as browser:
                    watched = rate(detect, seconds)
                    shown.append(look(browser, detect))
                    browser.screenshot(screenshot)
                pairs.append((alone, watched))
                click.echo(f"turn {turn + 1} of {turns}: {alone:.1f} and {watched:.1f} results a second", err=True)
            code = detect.end()
        finally:
            detect.close()
    losses = [1.0 - watched / alone for alone, watched in pairs]
    loss = statistics.median(losses)
    well = loss < MOST_LOSS and all(one["counts_right"] and one["pictures"] == LOOKS for one in shown)
    return {
        "rate_alone": round(statistics.median(alone for alone, _ in pairs), 2),
        "rate_watched": round(statistics.median(watched for _, watched in pairs), 2),
        "loss": {"median": round(loss, 4), "least": round(min(losses), 4), "most": round(max(losses), 4)},
        "pairs": [[round(value, 2) for value in pair] for pair in pairs],
        "page": shown,
        "exit_code": code,
        "well": well and code == 0,
    }


def rate(detect: Detect, seconds: float) -> float:
    """Results a second."""
    before, begin = detect.results, time.monotonic()
    time.sleep(seconds)
    return (detect.results - before) / (time.monotonic() - begin)


@contextlib.contextmanager
def viewers(port: int, programs: tuple[str, str]) -> Iterator[Browser]:
    """A browser and four readers, all of the lowest priority, once they show pictures."""
    url, done = f"http://127.0.0.1:{port}/", threading.Event()

    def watch() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # of this thread alone
        with urllib.request.urlopen(f"{url}stream.mjpg", timeout=20) as stream:
            while not done.is_set() and stream.read1(65536):
                pass

    threads = [threading.Thread(target=watch, daemon=True) for _ in range(STREAMS)]
    browser = Browser("nice", "-n", "19", *programs)
    try:
        browser.open(url)
        for thread in threads:
            thread.start()
        assert soon(lambda: browser.run("return document.querySelector('#picture').naturalWidth"))
        assert soon(lambda: browser.text("#speed").split()[-1] == str(STREAMS + 1)), browser.text("#speed")
        time.sleep(1)  # for the browser to settle
        yield browser
    finally:
        done.set()
        browser.close()
        for thread in threads:
            thread.join(timeout=5)


def look(browser: Browser, detect: Detect) -> dict[str, Any]:
    """Different pictures in so many looks, and whether the counts shown are those of the last seconds' records."""
    pictures = set()
    for _ in range(LOOKS):
        pictures.add(tuple(pixels(browser)))
        time.sleep(0.4)
    *_, inward, outward = browser.text("#lines tbody").split()
    recent = {(record["lines"][0]["in"], record["lines"][0]["out"]) for _, record in detect.records.copy()}
    return {
        "pictures": len(pictures),
        "in": int(inward),
        "out": int(outward),
        "counts_right": (int(inward), int(outward)) in recent,
    }


if __name__ == "__main__":
    main()
