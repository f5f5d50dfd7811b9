"""The rules that come with the package, by Prometheus' own promtool and by a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import soon
from running import Detect, anything
from servers import free_port, mjpeg_server

import edge_centernet

RULES = Path(edge_centernet.__file__).parent / "assets" / "prometheus" / "edge-centernet.yml"
ONE = '{job="edge-centernet", instance="a:8080"}'
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no prometheus: apt-get install prometheus",
)
pytestmark = needs_prometheus


def series(name: str, values: str, labels: str = "") -> dict[str, str]:
    """One of a board, a value a minute in promtool's notation: 0+1x5 is 0 1 2 3 4 5."""
    both = ONE if not labels else f"{ONE[:-1]}, {labels}}}"
    return {"series": f"edge_centernet_{name}{both}", "values": values}


def fired(folder: Path, minute: int, *given: dict[str, str], more: str = "") -> set[str]:
    """Names of the alerts that fire after so many minutes since midnight. more: groups behind the rules."""
    (folder / "rules.yml").write_text(RULES.read_text() + more)
    names = re.findall(r"alert: (\w+)", RULES.read_text())
    assert len(names) >= 7
    expected = [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []} for name in names]
    test = {"interval": "1m", "input_series": list(given), "alert_rule_test": expected}
    (folder / "test.yml").write_text(
        json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert ("SUCCESS" in said) != ("FAILED" in said), said
    return set(re.findall(r"alertname: (\w+)", said))


def healthy(length: int = 60, labels: str = "") -> list[dict[str, str]]:
    """A board that works and counts."""
    return [
        {"series": f"up{ONE}", "values": f"1x{length}"},
        {"series": f"process_start_time_seconds{ONE}", "values": f"0x{length}"},
        series("build_info", f"1x{length}", labels),
        series("capture_state", f"1x{length}", f'state="live"{labels and ", " + labels}'),
        series("capture_state", f"0x{length}", f'state="lost"{labels and ", " + labels}'),
        series("results_total", f"0+600x{length}", labels),
        series("crossings_total", f"0+2x{length}", f'line="door", direction="in"{labels and ", " + labels}'),
    ]


def test_promtool_finds_no_fault() -> None:
    """Recording rules and alerts are well formed."""
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("labels", ["", 'camera="door"', 'camera="door", class="person"'])
def test_nothing_fires_while_all_is_well(tmp_path: Path, labels: str) -> None:
    """By day and by night, with the labels of one camera and of several."""
    for minute in (30, 720):
        assert fired(tmp_path, minute, *healthy(720, labels)) == set()


@pytest.mark.parametrize("labels", ["", ', camera="door"'])
def test_a_lost_camera_fires(tmp_path: Path, labels: str) -> None:
    """Lost for more than two minutes; two minutes are not enough."""
    states = [
        series("capture_state", "1x10 0x50", f'state="live"{labels}'),
        series("capture_state", "0x10 1x50", f'state="lost"{labels}'),
    ]
    assert fired(tmp_path, 12, *states) == set()
    assert fired(tmp_path, 14, *states) == {"EdgeCenterNetCameraDown"}


def test_each_trouble_has_its_alert(tmp_path: Path) -> None:
    """Board, network, disk, webhook."""
    board = healthy(10)
    board[0]["values"] = "1x10 0x50"
    assert fired(tmp_path, 40, *board) == {"EdgeCenterNetBoardDown"}
    still = healthy()
    still[5]["values"] = "0+600x10 6000x50"
    assert fired(tmp_path, 40, *still) == {"EdgeCenterNetStalled"}
    assert fired(tmp_path, 40, *healthy(), series("unwritten", "0x10 1x50")) == {"EdgeCenterNetCannotWrite"}
    hook = series("webhook_up", "1x10 0x50", 'webhook="till"')
    assert fired(tmp_path, 40, *healthy(), hook) == {"EdgeCenterNetWebhookDown"}
    lost = series("webhook_messages_total", "3x10 4x50", 'webhook="till", outcome="failed"')
    sent = series("webhook_messages_total", "0+5x60", 'webhook="till", outcome="sent"')
    assert fired(tmp_path, 15, *healthy(), lost, sent) == {"EdgeCenterNetWebhookLost"}
    assert fired(tmp_path, 40, *healthy(), lost, sent) == set()
    other = {"series": 'up{job="node", instance="b:9100"}', "values": "0x60"}
    assert fired(tmp_path, 40, *healthy(), other) == set()


def test_nothing_counted_fires_by_day_alone(tmp_path: Path) -> None:
    """Two quiet hours: at noon, neither at night nor soon after opening nor after a start."""
    quiet = healthy(1440)
    quiet[-1]["values"] = "7x1440"
    assert fired(tmp_path, 12 * 60, *quiet) == {"EdgeCenterNetNothingCounted"}
    assert fired(tmp_path, 9 * 60, *quiet) == fired(tmp_path, 20 * 60, *quiet) == set()
    quiet[1]["values"] = f"{11 * 3600}x1440"
    assert fired(tmp_path, 12 * 60, *quiet) == set()


def test_a_full_room_fires(tmp_path: Path) -> None:
    """By a limit in the rules, or by a rule of `detect`."""
    room = [
        series("room_occupancy", f"{number}x60", f'room="shop", bound="{bound}"')
        for bound, number in (("low", 70), ("median", 82), ("high", 95))
    ]
    for limit, alerts in ((80, {"EdgeCenterNetOverCapacity"}), (82, set())):
        rule = {"record": "edge_centernet:capacity", "expr": f"vector({limit})", "labels": {"room": "shop"}}
        more = f"  - {json.dumps({'name': 'limits', 'rules': [rule]})}\n"
        assert fired(tmp_path, 10, *healthy(), *room, more=more) == alerts
    assert fired(tmp_path, 10, *healthy(), *room) == set()
    alert = series("alert", "1x60", 'rule="full", kind="capacity", place="shop"')
    assert fired(tmp_path, 10, *healthy(), alert) == {"EdgeCenterNetOverCapacity"}


def test_a_rule_of_detect_fires_while_it_alerts(tmp_path: Path) -> None:
    """At once, as the rule has waited itself, and no longer than the rule says."""
    alert = series("alert", "0x10 1x10 0x40", 'rule="till too long", kind="queue", place="till"')
    assert fired(tmp_path, 9, *healthy(), alert) == set()
    assert fired(tmp_path, 11, *healthy(), alert) == {"EdgeCenterNetRule"}
    assert fired(tmp_path, 25, *healthy(), alert) == set()


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A server that scrapes `target` each second and waits seconds where our rules wait minutes; its URL."""
    rules = re.sub(r"for: \d+m", "for: 2s", RULES.read_text()).replace("[2m]", "[5s]")
    (folder / "rules.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "edge-centernet", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def ask(url: str) -> Any:
    """The data of an answer of Prometheus' API; None while it is starting."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


@pytest.mark.slow
def test_a_real_server_tells_of_a_killed_camera_and_of_its_return(tmp_path: Path) -> None:
    """Scraped from `detect --serve`: quiet, then the alert, then quiet again."""

    def firing() -> set[str] | None:
        found = ask(f"{url}/api/v1/alerts")
        return found and {one["labels"]["alertname"] for one in found["alerts"] if one["state"] == "firing"}

    port = free_port()
    with mjpeg_server(path="/walk") as camera, prometheus(tmp_path, f"127.0.0.1:{port}") as url:
        run = Detect(
            "--camera", camera.url, "--serve", port, "--threads", "1", "--model", "centernet-nano-256",
            "--count-line", "mid=0.5,0,0.5,1", folder=tmp_path,
        )  # fmt: skip
        try:
            run.wait_for(anything, 0, 60)
            query = f"{url}/api/v1/query?query=edge_centernet:results:rate2m"
            assert soon(lambda: (ask(query) or {}).get("result"), 60)[0]["value"][1] > "0"
            assert soon(lambda: firing() == set(), 60)
            camera.kill()
            assert soon(lambda: "EdgeCenterNetCameraDown" in (firing() or ()), 60), firing()
            camera.start()
            assert soon(lambda: firing() == set(), 60), firing()
            assert run.end() == 0
            assert soon(lambda: firing() == {"EdgeCenterNetBoardDown"}, 60), firing()
        finally:
            run.close()
