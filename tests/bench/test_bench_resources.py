"""Cores, memory and energy: on this machine, and from the files that other machines have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_centernet.bench import resources


def write(root: Path, files: dict[str, str]) -> Path:
    """A tree with these files, as /sys and /proc have them."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def topology(root: Path, siblings: dict[int, str], capacity: dict[int, int] | None = None) -> Path:
    """A machine whose CPUs have these siblings, and these ratings."""
    cpu = "sys/devices/system/cpu/cpu{}"
    files = {cpu.format(n) + "/topology/thread_siblings_list": text for n, text in siblings.items()}
    files |= {cpu.format(n) + "/cpu_capacity": str(value) for n, value in (capacity or {}).items()}
    return write(root, files)


def test_every_core_gets_a_thread_before_any_gets_two(tmp_path: Path) -> None:
    """On four cores with two hyperthreads each, the first four CPUs are on four cores, high numbers first."""
    root = topology(tmp_path, {n: f"{n % 4},{n % 4 + 4}" for n in range(8)})
    order = resources.ordered(root, range(8))

    assert order == [7, 6, 5, 4, 3, 2, 1, 0]
    assert (resources.shared(order[:4], root), resources.shared(order[:5], root)) == (False, True)


def test_neighbouring_hyperthreads_are_kept_apart(tmp_path: Path) -> None:
    """Where siblings are numbered 0-1, 2-3, every second CPU comes first."""
    root = topology(tmp_path, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"})

    assert resources.ordered(root, range(4)) == [3, 1, 2, 0]


def test_big_cores_come_before_little_ones(tmp_path: Path) -> None:
    """An RK3588 has four little cores, then four big ones."""
    capacity = {n: 530 if n < 4 else 1024 for n in range(8)}
    root = topology(tmp_path, {n: str(n) for n in range(8)}, capacity)

    assert resources.ordered(root, range(8)) == [7, 6, 5, 4, 3, 2, 1, 0]
    reversed_ = topology(tmp_path / "b", {n: str(n) for n in range(4)}, {0: 1024, 1: 1024, 2: 530, 3: 530})
    assert resources.ordered(reversed_, range(4)) == [1, 0, 3, 2]


def test_only_allowed_cpus_are_used() -> None:
    """On this machine: those that the process may run on, each once."""
    assert sorted(resources.ordered()) == sorted(os.sched_getaffinity(0))


def test_a_quota_of_the_container_is_seen(tmp_path: Path) -> None:
    """`docker run --cpus 1.5` leaves all CPUs visible."""
    assert resources.quota(write(tmp_path, {"sys/fs/cgroup/cpu.max": "150000 100000"})) == 1.5
    assert resources.quota(write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000"})) is None


def test_pinning_holds_all_threads_of_a_process() -> None:
    """Those that run already are moved, those that start later stay."""
    code = """
import json, os, threading, time
from pathlib import Path
from edge_centernet.bench.resources import pin
stop = threading.Event()
threading.Thread(target=stop.wait).start()
done = pin([max(os.sched_getaffinity(0))])
threading.Thread(target=stop.wait).start()
threads = Path("/proc/self/task").iterdir()
print(json.dumps([done, [sorted(os.sched_getaffinity(int(thread.name))) for thread in threads]]))
stop.set()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == [True, [[max(os.sched_getaffinity(0))]] * 3]


def test_peak_memory_is_told_and_forgotten() -> None:
    """200 MB that were held for a moment are in the peak until it begins anew."""
    before = resources.peak_rss_mb()
    held = np.ones(200_000_000, np.uint8)
    peak = resources.peak_rss_mb()
    del held

    assert peak >= max(before, 200.0)
    assert resources.peak_rss_mb() == pytest.approx(peak, rel=0.02)
    if not resources.forget_peak():
        pytest.skip("this kernel has no /proc/self/clear_refs")
    assert resources.peak_rss_mb() <= peak - 150.0


def test_energy_by_rapl_survives_a_counter_that_begins_anew(tmp_path: Path) -> None:
    """Two packages; the second one's counter wraps at 1000 J. Its parts ("core") are not counted twice."""
    folder = "sys/class/powercap/intel-rapl:"
    for name, text in (("0", "package-0"), ("1", "package-1"), ("0:0", "core")):
        wrap = {f"{folder}{name}/max_energy_range_uj": "1000000000", f"{folder}{name}/energy_uj": "999000000"}
        write(tmp_path, {f"{folder}{name}/name": text, **wrap})
    meter = resources.find_meter(tmp_path)
    assert not isinstance(meter, str)
    meter.start()
    write(tmp_path, {f"{folder}0/energy_uj": "999500000", f"{folder}1/energy_uj": "2000000"})

    assert meter.stop() == pytest.approx(0.5 + 3.0)
    assert meter.name == "RAPL package-0, package-1"


def test_energy_of_a_jetson_is_that_of_the_whole_board(tmp_path: Path) -> None:
    """An INA3221 with three rails: 5 V and 2 A into the board are 10 W, whatever its parts take."""
    files = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "2000"}
    files |= {"in2_label": "VDD_CPU_GPU_CV", "in2_input": "5000", "curr2_input": "700"}
    root = write(tmp_path, {f"sys/class/hwmon/hwmon3/{name}": text for name, text in files.items()})
    meter = resources.find_meter(root)
    assert not isinstance(meter, str)
    meter.start()
    begin = time.monotonic()
    time.sleep(0.35)
    joules = meter.stop()

    assert joules == pytest.approx(10.0 * (time.monotonic() - begin), rel=0.1)
    assert meter.name == "INA VDD_IN"


def test_where_no_energy_is_told_the_reason_is(tmp_path: Path) -> None:
    """Nothing there; rails of which none is known to be the whole; counters that only root may read."""
    assert resources.find_meter(tmp_path) == (
        "this machine shows no RAPL (/sys/class/powercap) and no INA power sensor (/sys/class/hwmon)"
    )
    files = {"name": "ina3221", "in1_label": "A", "in1_input": "1", "curr1_input": "1"}
    files |= {"in2_label": "B", "in2_input": "1", "curr2_input": "1"}
    root = write(tmp_path, {f"sys/class/hwmon/hwmon0/{name}": text for name, text in files.items()})
    assert resources.find_meter(root) == "which of the sensors A, B feeds the whole board is not known"
    root = write(tmp_path, {"sys/class/powercap/intel-rapl:0/name": "package-0"})
    assert str(resources.find_meter(root)).startswith(
        "RAPL is there, but its counters may be read by root only"
    )
