"""`edge-centernet detect` before a camera, as a service runs it: a process, real servers, faults, signals."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from broker import Mosquitto, Subscriber, needs_broker
from running import Detect, anything
from servers import WALK_S, Server, crossings, free_port, mjpeg_server, rtsp_server

pytestmark = pytest.mark.slow  # whole commands with cameras and servers

BACK_S = 10.0  # after its source returned, detection goes on within so long


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Detect]]:
    """Starts `detect`; it is killed at the end of the test."""
    running: list[Detect] = []

    def call(*options: str) -> Detect:
        running.append(Detect(*options, folder=tmp_path))
        return running[-1]

    yield call
    for one in running:
        one.close()


def wait_until(phase: float) -> float:
    """Sleep until the walker is `phase` seconds into his way; the time."""
    now = time.monotonic()
    time.sleep((phase - now) % WALK_S)
    return time.monotonic()


def counts(record: dict[str, Any]) -> tuple[int, int]:
    """In and out of the first line."""
    line = record["lines"][0]
    return line["in"], line["out"]


def rate(run: Detect, begin: float, end: float) -> float:
    """Results a second between two times."""
    return sum(begin < at < end for at, _ in run.records.copy()) / (end - begin)


# The first point is at the top, so "in" is to the right hand of who looks down the picture: to its left.
WALK = ("--classes", "person", "--threads", "1", "--count-line", "mid=0.5,0,0.5,1")


@pytest.mark.slow
def test_counts_and_ids_of_one_who_walks_to_and_fro(start: Callable[..., Detect]) -> None:
    """Sixteen seconds are two crossings each way, by one and the same track; records say age and time."""
    with mjpeg_server(path="/walk") as server:
        wait_until(6.9)  # a second before he turns at the left
        run = start("--camera", server.url, *WALK)
        first = run.wait_for(anything, 0, 20)
        run.wait_for(lambda record: counts(record) == (2, 2), first, 2 * WALK_S + 4)
        ended = time.monotonic()
        assert run.end() == 0
    assert counts(run.records[-1][1]) == crossings(first, ended)[::-1]
    last = run.records[-1][1]
    assert {"seconds", "age_ms", "lines", "zones", "events"} <= set(last)
    ids = {detection["id"] for _, record in run.records for detection in record["detections"]}
    events = [event for _, record in run.records for event in record["events"]]
    assert [event["direction"] for event in events] == ["out", "in", "out", "in"]
    assert len({event["id"] for event in events}) == 1, ids


@pytest.mark.slow
def test_a_killed_rtsp_server_is_found_again(start: Callable[..., Detect]) -> None:
    """Killed for five seconds: records within ten seconds of its return, a line per change in the log."""
    with rtsp_server() as server:
        run = start("--camera", server.url)
        run.wait_for(anything, 0, 20)
        server.kill()
        time.sleep(5)
        server.start()
        back = time.monotonic()
        assert run.wait_for(anything, back + 0.5, BACK_S + 5) - back < BACK_S
        assert run.end() == 0
    assert len(re.findall(r"lost", run.said())) == 1, run.said()
    assert len(re.findall(r"back after", run.said())) == 1, run.said()


@pytest.mark.slow
def test_a_camera_that_stops_sending_loses_and_doubles_no_count(start: Callable[..., Detect]) -> None:
    """Frozen while he stands at the right, gone on before he leaves: every crossing is counted once."""
    with mjpeg_server(path="/walk") as server:
        wait_until(7)
        run = start("--camera", server.url, "--frozen-after", "1", *WALK)
        first = run.wait_for(anything, 0, 20)
        for _ in range(2):
            wait_until(3.0)
            server.freeze()
            time.sleep(1.6)
            server.thaw()
            back = time.monotonic()
            assert run.wait_for(anything, back + 0.2, BACK_S + 5) - back < BACK_S
        wait_until(7.8)
        seen = counts(run.records[-1][1])
        expected = crossings(first, time.monotonic())
        assert run.end() == 0
    assert seen == expected[::-1]
    assert "frozen" in run.said()


@needs_broker
@pytest.mark.slow
@pytest.mark.parametrize("outage", [3, 30])
def test_a_broker_that_stops_costs_nothing(
    start: Callable[..., Detect], broker: Mosquitto, outage: int
) -> None:
    """Detection keeps its rate while the broker is away; afterwards it has the totals and each event."""
    subscriber = Subscriber(broker.port)
    with mjpeg_server(path="/walk") as camera:
        run = start("--camera", camera.url, *WALK, "--mqtt", broker.url)
        first = run.wait_for(anything, 0, 30) + 1.0
        run.wait_for(lambda record: sum(counts(record)) >= 1, first + 2.0, 30)
        gone = time.monotonic()
        broker.kill()
        time.sleep(outage)
        broker.start()
        returned = time.monotonic()
        assert rate(run, gone, returned) > 0.9 * rate(run, first, gone)
        run.wait_for(lambda record: bool(record["events"]), returned + 2, 12)
        wait_until(4.0)
        time.sleep(1.5)
        made = [event for _, record in run.records for event in record["events"]]
        until = time.monotonic() + 15
        while len(subscriber.payloads("events")) < len(made) and time.monotonic() < until:
            time.sleep(0.1)
        state, heard = subscriber.state(), subscriber.payloads("events")
        assert (state["lines"]["mid"]["in"], state["lines"]["mid"]["out"]) == counts(run.records[-1][1])
        assert run.end() == 0
    subscriber.close()
    # QoS 1: a broker that is back may say one again, which its number tells.
    each = {(event["run"], event["seq"]): event["direction"] for event in heard}
    assert len(each) == len(made) >= 2
    assert list(each.values()) == [event["direction"] for event in made]


def test_sigterm_leaves_playable_files(start: Callable[..., Detect], tmp_path: Path) -> None:
    """Exit 0; the video opens and lasts as long as the run did; records, counts and map are whole."""
    options = ("--save", "--out", "out", "--counts", "counts.json", "--presence", "presence.png")
    with mjpeg_server(path="/walk") as server:
        run = start("--camera", server.url, *WALK, *options)
        first = run.wait_for(anything, 0, 20)
        time.sleep(4)
        assert run.end() == 0
        took = run.records[-1][0] - first
    (path,) = (tmp_path / "out").glob("*.mp4")
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while capture.grab():
        frames += 1
    assert frames / capture.get(cv2.CAP_PROP_FPS) == pytest.approx(took, abs=1.0)
    lines = (tmp_path / "out/detections.jsonl").read_text().splitlines()
    assert len(lines) == len(run.records)
    assert set(json.loads((tmp_path / "counts.json").read_text())["lines"]) == {"mid"}
    assert cv2.imread(str(tmp_path / "presence.png")).shape == (360, 640, 3)
    assert not list(tmp_path.rglob("*.part*"))


def test_counts_go_on_after_a_restart(start: Callable[..., Detect], tmp_path: Path) -> None:
    """The second run begins where the first one ended."""
    (tmp_path / "counts.json").write_text('{"lines": {"mid": {"in": 40, "out": 2}}, "zones": {}}')
    with mjpeg_server(path="/walk") as server:
        run = start("--camera", server.url, *WALK, "--counts", "counts.json")
        run.wait_for(anything, 0, 20)
        assert counts(run.records[0][1]) == (40, 2)
        assert run.end() == 0


def test_ctrl_c_is_a_normal_way_to_stop(start: Callable[..., Detect]) -> None:
    """Exit code 130 and the summary, no traceback."""
    with mjpeg_server(path="/walk") as server:
        run = start("--camera", server.url, *WALK)
        run.wait_for(anything, 0, 20)
        assert run.end(signal.SIGINT) == 130
    assert "Traceback" not in run.said()
    assert re.search(r"\d+ detections? in \d+ frames?", run.said())


def test_a_camera_that_is_not_there(start: Callable[..., Detect]) -> None:
    """Exit code 2 and one line; with --wait it is waited for, and used when it comes."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/walk"
    run = start("--camera", url)
    assert run.process.wait(timeout=30) == 2
    assert [line for line in run.said().splitlines() if line.startswith("Error:")]
    late = start("--camera", url, "--wait")
    time.sleep(3)
    server = Server(
        [sys.executable, str(Path(__file__).parents[1] / "helpers/servers.py"), str(port)], port, url
    )
    server.start()
    try:
        late.wait_for(anything, 0, BACK_S)
    finally:
        server.kill()
    assert late.end() == 0


def test_page_metrics_and_health_of_a_running_camera(start: Callable[..., Detect]) -> None:
    """The same counts on the page's state as in the records; metrics and health answer."""
    port = free_port()
    with mjpeg_server(path="/walk") as server:
        run = start("--camera", server.url, *WALK, "--serve", str(port))
        run.wait_for(lambda record: sum(counts(record)) >= 1, 0, 30)
        wait_until(4.0)
        time.sleep(0.5)

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return str(answer.read().decode())

        state = json.loads(get("/state.json"))
        line = state["lines"][0]
        assert (line["in"], line["out"]) == counts(run.records[-1][1])
        labels = 'class="person",direction="out",line="mid"'
        assert f"edge_centernet_crossings_total{{{labels}}} {line['out']}.0" in get("/metrics")
        assert "ok" in get("/healthz")
        assert run.end() == 0
    assert f"Live page: http://127.0.0.1:{port}/" in run.said()
