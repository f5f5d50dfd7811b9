"""`edge-centernet detect` before a camera, as a service runs it: a process, real servers, faults, signals."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import pytest
from broker import Mosquitto, Subscriber, needs_broker
from running import Detect, anything
from servers import WALK_S, Server, crossings, free_port, mjpeg_server, rtsp_server

from edge_centernet.history.summary import summarize

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


def peak_mb(run: Detect) -> float:
    """The most memory that the process ever held."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def shares(run: Detect, seconds: float) -> Counter[str]:
    """Results of each camera in the next seconds."""
    begin = time.monotonic()
    time.sleep(seconds)
    return Counter(record["camera"] for at, record in run.records.copy() if at > begin)


def fair(found: Counter[str]) -> bool:
    """Whether each has what all have, to a tenth; or to a result and a half, of few."""
    mean = found.total() / len(found)
    return max(abs(count - mean) for count in found.values()) <= max(0.1 * mean, 1.5)


def test_four_cameras_share_one_process(start: Callable[..., Detect], tmp_path: Path) -> None:
    """At most 1.4 times the memory of one, equal shares, and one that is killed harms no other.

    Each has counts, a store, and a page of its own.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(mjpeg_server(path="/walk")) for _ in range(4)]
        ports = free_port(), free_port()
        one = start("--camera", servers[0].url, *WALK, "--serve", str(ports[0]), "--store", "one.db")
        one.wait_for(anything, 0, 30)
        time.sleep(6.0)
        alone = peak_mb(one)
        assert one.end() == 0
        config = tmp_path / "shop.toml"
        config.write_text(
            f'serve = "{ports[1]}"\nstore = "shop.db"\ncounts = "counts.json"\n'
            + "".join(
                f'[[camera]]\nname = "cam {i}"\ncamera = "{server.url}"\n' for i, server in enumerate(servers)
            )
        )
        run = start("--config", str(config), *WALK)
        run.wait_for(anything, 0, 30)
        time.sleep(2.0)
        # 1. Memory, and fair shares.
        found = shares(run, 10.0)
        print(f"alone {alone:.0f} MB, four {peak_mb(run):.0f} MB; {dict(found)}")
        assert len(found) == 4
        assert fair(found), found
        assert peak_mb(run) < 1.4 * alone
        # 2. One is killed: the others take its turns, and nobody counts less.
        servers[1].kill()
        time.sleep(2.0)
        found = shares(run, 10.0)
        assert set(found) == {"cam 0", "cam 2", "cam 3"}
        assert fair(found), found

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}{path}", timeout=5) as answer:
                return str(answer.read().decode())

        assert get("/healthz") == "ok; 1 of 4 cameras do not work\n"
        states = {
            camera["name"]: camera["capture"]["state"] for camera in json.loads(get("/state.json"))["cameras"]
        }
        assert states == {"cam 0": "live", "cam 1": "lost", "cam 2": "live", "cam 3": "live"}
        assert json.loads(get("/cam-2/state.json"))["name"] == "cam 2"
        # 3. It comes back, and has its turns again.
        back = time.monotonic()
        servers[1].start()
        run.wait_for(lambda record: record["camera"] == "cam 1", back, BACK_S)
        time.sleep(2.0)
        found = shares(run, 10.0)
        assert len(found) == 4
        assert fair(found), found
        assert run.end() == 0
    said = run.said()
    assert [line for line in said.splitlines() if "cam 1: http" in line and "lost, opening it again" in line]
    for i in range(4):
        (told,) = re.findall(rf"^cam {i}: mid: (\d+) in, (\d+) out$", said, re.MULTILINE)
        kept = json.loads((tmp_path / f"counts-cam-{i}.json").read_text())["lines"]["mid"]
        assert (str(kept["in"]), str(kept["out"])) == told
        report = summarize(tmp_path / f"shop-cam-{i}.db")
        assert report.camera == f"cam {i}"
        assert (str(report.total("mid", "in")), str(report.total("mid", "out"))) == told
