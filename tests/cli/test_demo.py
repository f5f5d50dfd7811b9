"""`edge-centernet demo`: the clip's people are really detected, and counted as they were made to walk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import NEEDS, Browser, find_programs, soon
from running import CLI
from support import Result, allow_interrupts, load_script

from edge_centernet.boxes import iou
from edge_centernet.cli.demo import CLIP, SCENE
from edge_centernet.detector import Detector
from edge_centernet.sources.files import Video
from edge_centernet.tracking.line_counter import parse_line

render = load_script("render_demo")
DOOR_X = -1.1  # metres, in the shop of the clip


def test_the_line_is_on_the_floor_where_it_is_said_to_be() -> None:
    """Of all metres that lie on it in space, the picture's points are within three pixels of the line."""
    (x1, y1), (x2, y2) = parse_line(SCENE[1]).pixels((render.WIDTH, render.HEIGHT))
    for z in (3.4, 4.5, 6.0):
        x, y, _ = render.project(np.array([DOOR_X, 0.0, z]))
        assert x == pytest.approx(x1 + (x2 - x1) * (y - y1) / (y2 - y1), abs=3)


@pytest.mark.parametrize("model", ["centernet-mbv2-320", "centernet-nano-256"])
def test_nearly_all_people_of_the_clip_are_found(model: str) -> None:
    """In every twentieth frame: 0.8 at least of those who are wholly in it, and hardly anything else."""
    detector = Detector(model, threads=1)
    hits = people = false = 0
    for frame in Video(str(CLIP), live=False):
        if frame.number % 20:
            continue
        boxes = render.boxes(frame.number)  # (N, 4)
        got = [one.xyxy for one in detector.detect(frame.image) if one.name == "person"]
        overlap = iou(boxes, np.array(got).reshape(-1, 4)) > 0.5
        inside = (boxes[:, 0] >= 0) & (boxes[:, 2] <= render.WIDTH)
        people += int(inside.sum())
        hits += int(overlap[inside].any(1).sum())
        false += int((~overlap.any(0)).sum())
    assert people >= 30
    assert hits / people >= 0.8
    assert false / people <= 0.1


@pytest.mark.slow
def test_the_counts_of_the_clip_are_the_truth(run: Callable[..., Result], tmp_path: Path) -> None:
    """Five come in and five leave, as `WALKS` has them; three stop at the shelf."""
    metres = np.array([(-2.0, 3.2), (2.0, 3.2), (3.0, 6.0), (-3.0, 6.0)])
    image = render.project(np.insert(metres, 1, 0.0, axis=1))[:, :2]
    floor = "=".join(",".join(f"{number:.1f}" for number in side.ravel()) for side in (image, metres))
    options = ("--classes", "person", "--no-save", "--threads", "1", "--out", tmp_path, "--floor", floor)
    assert run("detect", "--source", CLIP, *SCENE, *options).code == 0
    records = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    last = records[-1]
    door, shelf = last["lines"][0], last["zones"][0]
    assert (door["in"], door["out"]) == render.crossings(DOOR_X) == (5, 5)
    stops = [pause for walk in render.WALKS for _, _, pause in walk.stops if pause]
    assert (shelf["entered"], last["rooms"][0]["inside"]) == (len(stops), 0)
    # They walk at 1.2 metres a second, one at 1.1, or they stand.
    speeds = np.array([one["speed"] for record in records for one in record["detections"] if one["speed"]])
    assert np.median(speeds[speeds > 0.6]) == pytest.approx(1.2, abs=0.12)
    assert shelf["mean_dwell_s"] == pytest.approx(np.mean(stops) + 2.0, abs=1.5)  # and the way to and fro


class Demo:
    """A running `demo`, whose browser writes the address that it is given into a file."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Start it in `folder`, which will hold its log and its temporary files."""
        self._asked = folder / "asked"
        browser = folder / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" > {self._asked}\n')
        browser.chmod(0o755)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*CLI, "demo", "--threads", "1", *options],
                cwd=folder,
                env={**os.environ, "BROWSER": str(browser), "TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=log,
                preexec_fn=allow_interrupts,
            )

    @property
    def page(self) -> str:
        """The address of the page, once it is told."""
        told = soon(lambda: re.search(r"Live page: (http://127\.0\.0\.1:\d+/\S*)", self.log.read_text()))
        assert told, self.log.read_text()
        return str(told[1])

    @property
    def asked(self) -> str:
        """What the browser was given, "" if it was not started."""
        return self._asked.read_text().strip() if self._asked.exists() else ""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts `demo`; it is killed at the end of the test."""
    started: list[Demo] = []

    def start(*options: str) -> Demo:
        started.append(Demo(tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.slow
def test_the_page_opens_and_counts_until_ctrl_c(demo: Callable[..., Demo], tmp_path: Path) -> None:
    """The browser gets the page's address, which shows a picture and a count; 130, and nothing is left."""
    if (programs := find_programs()) is None:
        pytest.skip(f"needs {NEEDS}")
    running = demo()
    assert soon(lambda: running.asked) == running.page
    assert list(running.temporary.glob("edge-centernet-demo-*/demo.db"))
    port = urlsplit(running.page).port
    assert soon(
        lambda: re.search(rf"The same as: edge-centernet detect .* --serve {port}\n", running.log.read_text())
    )
    browser = Browser(*programs)
    try:
        browser.open(running.page)
        assert soon(lambda: "door" in browser.text("#lines"))
        assert soon(lambda: browser.run("return document.querySelector('#picture').naturalWidth")) == 640

        def entered() -> bool:
            with urllib.request.urlopen(f"{running.page.partition('?')[0]}state.json", timeout=5) as answer:
                return bool(json.load(answer)["lines"][0]["in"] >= 1)

        assert soon(entered, 30)
        browser.screenshot(tmp_path / "page.png")
    finally:
        browser.close()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(timeout=20) == 130
    assert list(running.temporary.iterdir()) == []
    said = running.log.read_text()
    assert "Traceback" not in said
    assert re.search(r"door: \d+ in, \d+ out", said)


@pytest.mark.slow
def test_without_a_browser(demo: Callable[..., Demo]) -> None:
    """--no-browser starts none; the page is there all the same, at the port that was asked for."""
    running = demo("--no-browser", "--model", "centernet-nano-256")
    with urllib.request.urlopen(f"{running.page.partition('?')[0]}state.json", timeout=10) as answer:
        # Nothing is counted before the first picture.
        assert [line["name"] for line in json.load(answer).get("lines", [])] in ([], ["door"])
    time.sleep(0.5)
    assert running.asked == ""
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=20) == 0
