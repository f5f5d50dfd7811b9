"""What a measurement needs to know of the machine's resources: its cores, memory and energy.

Everything is read from /sys and /proc. What the system does not report is None, empty or a reason in words,
so that a board without sensors is measured like any other.
"""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from edge_centernet.files import text_of

# Seconds between two readings of a power sensor; an INA3221 averages over some 10 to 100 ms itself.
_PERIOD_S = 0.1
# The rail that feeds the whole Jetson, by JetPack's names over the years. Without one of them the largest
# rail is not known, and the sum of all rails would count some of them twice.
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "VDD_IN_SYS")

# ---- cores -------------------------------------------------------------------------------------------


def ordered(root: Path = Path("/"), usable: Iterable[int] | None = None) -> list[int]:
    """The CPUs that may be used, in the order in which threads should get them.

    These are the cores that are most alike from run to run, and most like a board at work.
    root: where /sys is. usable: CPU numbers, by default those this process may run on.
    """
    seen: list[frozenset[int]] = []
    keys = {}
    for cpu in sorted(os.sched_getaffinity(0) if usable is None else usable, reverse=True):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        # The kernel's own rating where cores differ (big.LITTLE), else the highest clock.
        text = text_of(folder / "cpu_capacity") or text_of(folder / "cpufreq/cpuinfo_max_freq")
        speed = int(text) if text.isdecimal() else 0
        core = siblings(cpu, root)
        # One hyperthread of each core before the second one of any, for two on one core share its
        # multipliers; then the faster cores; then the higher number, for interrupts mostly go to CPU 0.
        keys[cpu] = (seen.count(core), -speed, -cpu)
        seen.append(core)
    return sorted(keys, key=lambda cpu: keys[cpu])


def shared(cpus: Iterable[int], root: Path = Path("/")) -> bool:
    """Whether two of these CPUs are hyperthreads of one core."""
    cores = [siblings(cpu, root) for cpu in cpus]
    return len(set(cores)) < len(cores)


def siblings(cpu: int, root: Path = Path("/")) -> frozenset[int]:
    """The CPUs on the same core, itself among them."""
    text = text_of(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    found: set[int] = {cpu}
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):  # such as "0,4" or "0-1"
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def governors(cpus: Iterable[int], root: Path = Path("/")) -> list[str]:
    """How the kernel chooses the clock of these CPUs, such as ["ondemand"]; empty where it does not say."""
    folder = root / "sys/devices/system/cpu"
    return sorted({text for cpu in cpus if (text := text_of(folder / f"cpu{cpu}/cpufreq/scaling_governor"))})


def quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' time the container may use (cgroup v2), whatever the pinning; None without a limit."""
    found = re.match(r"(\d+) (\d+)", text_of(root / "sys/fs/cgroup/cpu.max"))
    return int(found[1]) / int(found[2]) if found else None


def pin(cpus: Iterable[int]) -> bool:
    """Keep every thread of this process, and those that it will start, on these CPUs.

    Returns whether the system allows it.
    """
    wanted = set(cpus)
    try:
        # Each thread by itself: sched_setaffinity(0) moves the calling thread only, and an engine may have
        # moved its own.
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), wanted)
    except OSError:
        return False
    return True


# ---- memory ------------------------------------------------------------------------------------------


def peak_rss_mb() -> float:
    """The most memory this process has had resident (VmHWM), in millions of bytes."""
    # Not ru_maxrss alone: it counts what the parent held before exec, and cannot be reset.
    found = re.search(r"^VmHWM:\s+(\d+) kB", text_of(Path("/proc/self/status")), re.MULTILINE)
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e6


def forget_peak() -> bool:
    """Let `peak_rss_mb` begin anew with what is resident now. Returns whether the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset the peak, see proc(5)
    except OSError:
        return False
    return True


def available_mb(root: Path = Path("/")) -> float | None:
    """Memory that a new process could have now, in millions of bytes; None where the system does not say."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else None


# ---- energy ------------------------------------------------------------------------------------------


class Meter(Protocol):
    """Energy between two moments. name: what is measured, such as "RAPL package-0"."""

    name: str

    def start(self) -> None:
        """Begin; may be called again and again."""

    def stop(self) -> float:
        """Joules since `start`."""


def find_meter(root: Path = Path("/")) -> Meter | str:
    """The energy meter of this machine, or the reason why there is none. root: where /sys is."""
    # 1. Intel and AMD: the packages' counters. Their parts ("core", "dram") are folders of their own.
    packages = [
        f for f in sorted(root.glob("sys/class/powercap/*:*")) if text_of(f / "name").startswith("package")
    ]
    if packages:
        if all(text_of(folder / "energy_uj").isdecimal() for folder in packages):
            return Rapl(packages)
        # Since CVE-2020-8694 they are closed to users: they reveal what other programs compute.
        return "RAPL is there, but its counters may be read by root only (/sys/class/powercap/*/energy_uj)"
    # 2. Jetsons and some other boards: INA chips, each rail with its files and their factors to SI units.
    rails: dict[str, list[tuple[Path, float]]] = {}
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not text_of(folder / "name").startswith("ina"):
            continue
        pairs = [
            (current.name[4], folder / f"in{current.name[4]}_input", current)
            for current in sorted(folder.glob("curr[1-3]_input"))
        ]
        pairs = [pair for pair in pairs if pair[1].exists()]
        for number, voltage, current in pairs:
            label = text_of(folder / f"in{number}_label") or f"{folder.name} rail {number}"
            rails[label] = [(voltage, 1e-3), (current, 1e-3)]  # millivolts, milliamperes
        power = folder / "power1_input"
        if not pairs and power.exists():
            rails[text_of(folder / "power1_label") or folder.name] = [(power, 1e-6)]  # microwatts
    # 3. Only a rail that feeds everything says what a frame costs.
    whole = next((name for name in _WHOLE_BOARD if name in rails), None)
    if whole or len(rails) == 1:
        name = whole or next(iter(rails))
        return Sampled(name, *rails[name])
    if rails:
        return f"which of the sensors {', '.join(rails)} feeds the whole board is not known"
    return "this machine shows no RAPL (/sys/class/powercap) and no INA power sensor (/sys/class/hwmon)"


class Rapl:
    """Running Average Power Limit: the counters of all processor packages together, without the memory."""

    def __init__(self, packages: list[Path]) -> None:
        """packages: folders of /sys/class/powercap."""
        self._packages = packages
        self.name = "RAPL " + ", ".join(text_of(folder / "name") for folder in packages)
        self.start()

    def start(self) -> None:
        """See Meter.start."""
        self._before = self._read()

    def stop(self) -> float:
        """See Meter.stop. A counter that has wrapped around since is understood, once."""
        total = 0
        for folder, before, after in zip(self._packages, self._before, self._read(), strict=True):
            again = int(text_of(folder / "max_energy_range_uj") or 0) if after < before else 0
            total += after - before + again
        return total / 1e6  # from microjoules

    def _read(self) -> list[int]:
        return [int(text_of(folder / "energy_uj")) for folder in self._packages]


class Sampled:
    """A sensor of voltage and current, or of power, read ten times a second between `start` and `stop`."""

    def __init__(self, rail: str, *files: tuple[Path, float]) -> None:
        """rail: its name. files: each with its factor to volts, amperes or watts; power is their product."""
        self.name = f"INA {rail}"
        self._files = files
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See Meter.start."""
        self._stopped.set()  # of a thread that an earlier start left running
        self._joules, self._stopped = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, args=(self._stopped,), name="power", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """See Meter.stop."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        return self._joules

    def watts(self) -> float:
        """The power now; 0 where the driver refuses."""
        power = 1.0
        for path, factor in self._files:
            text = text_of(path)
            power *= factor * int(text) if re.fullmatch(r"-?\d+", text) else 0.0
        return power

    def _sample(self, stopped: threading.Event) -> None:
        last = time.monotonic(), self.watts()
        while not stopped.wait(_PERIOD_S):
            last = self._add(*last)
        self._add(*last)  # the rest, from the last reading to the end

    def _add(self, before: float, power: float) -> tuple[float, float]:
        """Add the energy of one interval by the trapezoidal rule; returns its end and the power there."""
        now, after = time.monotonic(), self.watts()
        self._joules += 0.5 * (power + after) * (now - before)
        return now, after
