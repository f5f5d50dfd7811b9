"""systemd's protocol over a real socket, health, log lines, and the unit file under systemd's own tools."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from snapshots import CLASSES, counted, snapshot

import edge_centernet
from edge_centernet.service import Watchdog, health, status_line
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import LineCount, QueueCount, RuleState, Tally, ZoneCount

UNIT = Path(edge_centernet.__file__).parent / "assets" / "edge-centernet@.service"
EXPOSURE_MAX = 2.5


class Supervisor:
    """systemd's end of the notification socket."""

    def __init__(self, address: str) -> None:
        """address: a path, or a name after a zero byte for an abstract socket."""
        self.environment = {"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_PID": str(os.getpid())}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """All messages since the last call."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    """A socket in the file system, and one without a file, as containers have it."""
    name = f"\0edge-centernet-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    supervisor = Supervisor(name)
    yield supervisor
    supervisor.close()


def watchdog(systemd: Supervisor, seconds: float = 0.0) -> Watchdog:
    """One that is asked for a sign of life every `seconds`; not at all for 0."""
    asked = {"WATCHDOG_USEC": str(round(seconds * 1e6))} if seconds else {}
    return Watchdog(CLASSES, {**systemd.environment, **asked})


def test_ready_and_stopping(systemd: Supervisor) -> None:
    """Start and end are told in systemd's words."""
    dog = watchdog(systemd)
    dog.ready()
    dog.stopping()
    assert systemd.heard() == ["READY=1", "STOPPING=1"]


def test_frames_feed_it_at_a_quarter_of_the_time(systemd: Supervisor) -> None:
    """With WatchdogSec=0.8 and a frame every 10 ms for 1 s: a sign of life every 0.2 s, not a hundred."""
    dog = watchdog(systemd, 0.8)
    dog.ready()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        dog.frame(snapshot())
        time.sleep(0.01)
    assert 3 <= systemd.heard().count("WATCHDOG=1") <= 5


def test_the_same_frame_again_does_not_feed_it(systemd: Supervisor) -> None:
    """A loop that turns over one old frame is a hang, however busy it is."""
    dog, stale = watchdog(systemd, 0.04), snapshot()
    dog.ready()
    dog.frame(stale)
    systemd.heard()
    for _ in range(10):
        dog.frame(stale)
        time.sleep(0.01)
    assert systemd.heard() == []


@pytest.mark.parametrize("state", ["starting", "lost", "frozen"])
def test_camera_that_is_being_opened_feeds_it(systemd: Supervisor, state: str) -> None:
    """A restart would not bring the camera back, and would lose the counts."""
    dog = watchdog(systemd, 0.04)
    dog.ready()
    time.sleep(0.02)
    dog.waiting(CaptureState(state, "no such camera"))
    assert set(systemd.heard()) == {"READY=1", "WATCHDOG=1", f"STATUS=camera {state}: no such camera"}


def test_live_camera_without_results_does_not_feed_it(systemd: Supervisor) -> None:
    """Frames come and no result does: the pipeline hangs, and a restart helps."""
    dog = watchdog(systemd, 0.04)
    dog.ready()
    for _ in range(5):
        time.sleep(0.02)
        dog.waiting(CaptureState("live"))
    assert "WATCHDOG=1" not in systemd.heard()


def test_one_camera_of_two_that_works_feeds_it(systemd: Supervisor) -> None:
    """One that hangs stops nobody; one that is opened hides no pipeline that hangs; the status names both."""
    dog = watchdog(systemd, 0.04)
    dog.ready()
    dog.waiting(CaptureState("stuck", "it blocks"), "yard")
    assert "WATCHDOG=1" not in systemd.heard()
    time.sleep(0.02)
    dog.frame(snapshot(), "door")
    assert "WATCHDOG=1" in systemd.heard()
    time.sleep(0.02)
    dog.waiting(CaptureState("lost"), "yard")  # the door is live and gives no results: a hang
    assert systemd.heard() == []
    dog.waiting(CaptureState("lost"), "door")
    assert systemd.heard() == ["WATCHDOG=1"]
    dog._told = float("-inf")
    dog.frame(snapshot(1), "door")
    assert "STATUS=yard: camera lost | door: 20.0 fps; nothing in view" in systemd.heard()


def test_status_every_five_seconds_at_most(systemd: Supervisor) -> None:
    """Fifty frames in a moment make one status line."""
    dog = watchdog(systemd)
    for number in range(50):
        dog.frame(snapshot(number, 2, 2, 0, tally=counted(12, 9)))
    assert systemd.heard() == ["STATUS=20.0 fps; person 2, cat 1; door in 12 out 9; shop 0 inside"]


def test_status_of_an_empty_picture() -> None:
    """Nothing found, nothing counted."""
    assert status_line(snapshot(), CLASSES) == "20.0 fps; nothing in view"


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": "/nonexistent/notify", "WATCHDOG_USEC": "1000"}, {"WATCHDOG_USEC": "1000"}],
    ids=["not under systemd", "socket gone", "no socket"],
)
def test_nobody_listens(environment: dict[str, str]) -> None:
    """Without a supervisor, or with one that is gone, nothing happens and nothing fails."""
    dog = Watchdog(CLASSES, environment)
    dog.ready()
    time.sleep(0.002)
    dog.frame(snapshot())
    dog.stopping()


def test_watchdog_of_another_process_is_not_ours(systemd: Supervisor) -> None:
    """WATCHDOG_PID names who is asked: a child of the service must not answer for it."""
    environment = {**systemd.environment, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    assert Watchdog(CLASSES, environment).interval_s == 0


def test_full_socket_does_not_block() -> None:
    """A supervisor that reads nothing delays nobody: 2,000 messages, more than a socket takes, return."""
    supervisor = Supervisor(f"\0edge-centernet-full-{os.getpid()}")
    dog = watchdog(supervisor)
    sending = threading.Thread(target=lambda: [dog.ready() for _ in range(2000)], daemon=True)
    sending.start()
    sending.join(timeout=60)
    assert not sending.is_alive()
    supervisor.close()


@pytest.mark.parametrize(
    ("capture", "age", "status"),
    [
        (CaptureState("live"), 0.5, "ok"),
        (CaptureState("live"), 11.0, "stalled"),
        (CaptureState("live"), None, "no result yet"),
        (CaptureState("starting"), None, "camera starting"),
        (CaptureState("lost", "unplugged"), 0.5, "camera lost"),
        (CaptureState("frozen"), 0.5, "camera frozen"),
        (CaptureState("ended"), 0.5, "camera ended"),
    ],
)
def test_health(capture: CaptureState, age: float | None, status: str) -> None:
    """Well is only who has a live camera and a result of the last ten seconds."""
    now = time.monotonic()
    newest = None if age is None else snapshot(captured=now - age - 0.0414)
    ok, record = health(capture, newest, now=now)
    assert (ok, record["status"], record["detail"]) == (status == "ok", status, capture.detail)
    assert record["last_result_s"] == age
    assert "mqtt" not in record


def test_health_tells_of_the_broker() -> None:
    """Detection works without it, so the answer is the same."""
    told = [health(CaptureState("live"), snapshot(), mqtt=text) for text in ("", "connection lost")]
    assert [(ok, record["mqtt"]) for ok, record in told] == [(True, "ok"), (True, "connection lost")]


def test_the_status_tells_classes_queues_and_alerts() -> None:
    """Classes where there are several, a queue's length, and the alerts that are on."""
    line = LineCount("door", 12, 9, {"person": (10, 9), "dog": (2, 0)})
    zone = ZoneCount("till", 3, 5, 0.0, 0.0, {"person": (3, 5)}, QueueCount(2))
    rules = RuleState("busy", "queue", "till", True, 2), RuleState("full", "capacity", "till", False, 3)
    assert status_line(snapshot(tally=Tally((line,), (zone,), rules=rules)), CLASSES) == (
        "20.0 fps; nothing in view; door in 12 out 9 (person 10/9, dog 2/0); till 3 inside, 2 waiting; "
        "alert busy"
    )


def test_health_of_webhooks() -> None:
    """What waits for a receiver that is away is told; detection is well all the same."""
    hook = {"name": "till", "queued": 3, "sent": 0, "failed": 0, "trouble": "Connection refused"}
    ok, record = health(CaptureState("live"), snapshot(), webhooks=[hook])
    assert (ok, record["webhooks"]) == (True, [hook])
    assert "webhooks" not in health(CaptureState("live"), snapshot())[1]


def test_a_file_that_cannot_be_written_is_told_and_no_reason_for_a_restart() -> None:
    """In the record of health and in systemd's status."""
    full = snapshot(unwritten="counts.json: cannot write: No space left on device")
    ok, record = health(CaptureState("live"), full)
    assert (ok, record["unwritten"]) == (True, full.unwritten)
    assert status_line(full, CLASSES).endswith(f"; {full.unwritten}")


@pytest.fixture(scope="module")
def analyze() -> str:
    """systemd-analyze."""
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("no systemd-analyze: install systemd")
    return found


def test_unit_exposure(analyze: str) -> None:
    """By systemd's own rating the unit's exposure is at most 2.5, on its scale from 0 to 10."""
    done = subprocess.run(
        [analyze, "security", "--offline=true", str(UNIT)], capture_output=True, text=True, timeout=60
    )
    rating = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if rating is None and "offline" in done.stderr:
        pytest.skip("this systemd-analyze is older than 250 and cannot rate a file")
    assert rating is not None, done.stderr
    assert float(rating.group(1)) <= EXPOSURE_MAX


def test_unit_is_understood(analyze: str, tmp_path: Path) -> None:
    """The unit holds, for systemd, no unknown key, bad value or missing program."""
    program = tmp_path / "opt/edge-centernet/bin/edge-centernet"
    units = tmp_path / "etc/systemd/system"
    program.parent.mkdir(parents=True)
    units.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    shutil.copy(UNIT, units)
    command = [analyze, "verify", f"--root={tmp_path}", "edge-centernet@door.service"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # It also misses the system's own units, which are not below this root.
    assert [
        line for line in done.stderr.splitlines() if UNIT.name in line or "Failed to prepare" in line
    ] == []


def test_unit_waits_for_ready_and_watches() -> None:
    """The unit asks for what `Watchdog` tells, and starts what the deployment installs."""
    settings = set(UNIT.read_text(encoding="utf-8").splitlines())
    program = (
        "/opt/edge-centernet/current/venv/bin/edge-centernet detect --config /etc/edge-centernet/%i.toml"
    )
    assert {"Type=notify", "WatchdogSec=30", "Restart=always", f"ExecStart={program}"} <= settings
