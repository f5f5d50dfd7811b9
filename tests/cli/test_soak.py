"""`detect` for a long time with all that grows: store, open page, webhook, metrics, and faults all the while.

EDGE_CENTERNET_SOAK_MINUTES=30 pytest -s tests/cli/test_soak.py judges memory, too, and says how all went.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from browser import NEEDS, Browser, find_programs, soon
from running import Detect, anything
from servers import free_port, mjpeg_server

from edge_centernet.cli.detect import command as detect
from edge_centernet.history.store import open_store
from edge_centernet.history.summary import summarize

MINUTES = float(os.environ.get("EDGE_CENTERNET_SOAK_MINUTES", "2"))
WARM, WARM_MINUTES = 1 / 3, 10  # share of the time, and how long it takes: caches fill, heaps find their size
GROWTH_MB = 1.0  # of memory, over the rest
DISK_MB = 20.0
FAULT_EVERY_S = 30.0


@contextmanager
def receiver() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server that takes messages in one half of each minute, and fails in the other; what it took."""
    taken: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            well = time.monotonic() % 60 < 30
            if well:
                taken.append(body)
            self.send_response(204 if well else 503)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def disk_mb(folder: Path) -> float:
    """All files in a folder; one may vanish meanwhile."""
    total = 0
    for folder_path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(folder_path, name)).st_size
            except FileNotFoundError:
                continue
    return total / 1e6


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 300)
@pytest.mark.skipif(find_programs() is None, reason=NEEDS)
def test_memory_and_disk_stay_bounded(tmp_path: Path) -> None:
    """Memory grows by less than a megabyte once it is warm; the store deletes what is old and stays whole."""
    port, work = free_port(), tmp_path / "work"
    work.mkdir()
    programs = find_programs()
    assert programs is not None
    samples: list[tuple[float, float, float]] = []  # seconds, MB of memory, MB of disk
    with mjpeg_server(path="/walk") as camera, receiver() as (hook, taken):
        webhook = ("--webhook", hook) if any(option.name == "webhook" for option in detect.params) else ()
        run = Detect(
            "--camera", camera.url, "--serve", port, "--model", "centernet-nano-256", "--threads", "1",
            "--classes", "person", "--count-line", "mid=0.5,0,0.5,1", "--zone", "left=0,0,0.5,0,0.5,1,0,1",
            "--store", "history.db", "--keep", MINUTES / 1440 / 4, "--frozen-after", "2", *webhook,
            folder=work, kept=100,
        )  # fmt: skip
        browser = Browser(*programs)
        try:
            run.wait_for(anything, 0, 60)
            browser.open(f"http://127.0.0.1:{port}/")
            assert soon(lambda: browser.text("#status") == "live", 60)
            began, fault, results = time.monotonic(), 0, 0
            while (now := time.monotonic() - began) < 60 * MINUTES:
                if now > FAULT_EVERY_S * (fault + 1):
                    fault += 1
                    results = run.results
                    # A camera that is cut off, one that hangs, and a page that is opened anew.
                    if fault % 3 == 0:
                        camera.kill()
                        time.sleep(3)
                        camera.start()
                    elif fault % 3 == 1:
                        camera.freeze()
                        time.sleep(4)
                        camera.thaw()
                    else:
                        browser.open(f"http://127.0.0.1:{port}/")
                    back = time.monotonic()
                    run.wait_for(anything, back + 0.5, 20)
                    assert run.results > results
                    summarize(work / "history.db")  # somebody looks at the report
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                    answer.read()
                samples.append((now, rss_mb(run.process.pid), disk_mb(work)))
                time.sleep(1)
            assert soon(lambda: browser.text("#status") == "live", 30)
            assert run.end() == 0
        finally:
            browser.close()
            run.close()
    seconds, memory, disk = np.array([one for one in samples if one[0] >= 60 * MINUTES * WARM]).T
    # Pictures under way take some megabytes at one moment and none at the next: what is kept is the least of
    # each minute, and a leak raises that.
    minute = ((seconds - seconds[0]) // 60).astype(int)
    least = np.array([memory[minute == i].min() for i in range(minute[-1] + 1)])
    slope = np.polyfit(np.arange(len(least)), least, 1)[0] if len(least) > 1 else 0.0  # MB a minute
    span = seconds[-1] - seconds[0]
    grown = slope * span / 60
    print(
        f"\n{MINUTES:g} minutes, {run.results} results, {fault} faults, {len(taken)} messages; memory: "
        f"{samples[0][1]:.1f} MB at first, {memory[0]:.1f} MB when warm, {memory[-1]:.1f} MB at the end, "
        f"{grown:+.2f} MB in the last {span / 60:.1f} minutes; disk: at most {disk.max():.1f} MB\n"
        f"least of each minute: {' '.join(f'{one:.1f}' for one in least)}"
    )
    if MINUTES >= WARM_MINUTES / WARM:
        assert grown < GROWTH_MB
    assert disk.max() < DISK_MB
    with closing(open_store(work / "history.db")) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ((first, last),) = base.execute("SELECT min(time), max(time) FROM event").fetchall()
        assert last - first < 60_000 * MINUTES / 2  # what is older than a quarter of the time has gone
    if webhook:
        assert taken
