"""Which cores a measurement is pinned to: those that are most alike from run to run, and most like a board at work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from edge_centernet.files import text_of


def ordered(root: Path = Path("/"), usable: Iterable[int] | None = None) -> list[int]:
    """The CPUs that may be used, in the order in which threads should get them.

    One hyperthread of each core before the second one of any, for two on one core share its multipliers; then
    the faster cores, where they differ (big.LITTLE); then the higher number, for interrupts mostly go to CPU
    0.
    root: where /sys is. usable: CPU numbers, by default those this process may run on.
    """
    cpus = sorted(os.sched_getaffinity(0) if usable is None else usable, reverse=True)
    seen: list[frozenset[int]] = []
    keys = {}
    for cpu in cpus:
        core = siblings(cpu, root)
        keys[cpu] = (seen.count(core), -_speed(cpu, root), -cpu)
        seen.append(core)
    return sorted(cpus, key=lambda cpu: keys[cpu])


def shared(cpus: Iterable[int], root: Path = Path("/")) -> bool:
    """Whether two of these CPUs are hyperthreads of one core."""
    cores = [siblings(cpu, root) for cpu in cpus]
    return len(set(cores)) < len(cores)


def siblings(cpu: int, root: Path = Path("/")) -> frozenset[int]:
    """The CPUs on the same core, itself among them."""
    text = text_of(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    found: set[int] = {cpu}
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def governors(cpus: Iterable[int], root: Path = Path("/")) -> list[str]:
    """How the kernel chooses the clock of these CPUs, such as ["ondemand"]; empty where it does not say."""
    folder = root / "sys/devices/system/cpu"
    return sorted({text for cpu in cpus if (text := text_of(folder / f"cpu{cpu}/cpufreq/scaling_governor"))})


def quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' time the container may use (cgroup v2), which pinning does not change; None without a limit."""
    found = re.match(r"(\d+) (\d+)", text_of(root / "sys/fs/cgroup/cpu.max"))
    return int(found[1]) / int(found[2]) if found else None


def pin(cpus: Iterable[int]) -> bool:
    """Keep every thread of this process on these CPUs, and those that it will start. Whether the system allows it.

    All threads, because an engine may have moved its own.
    """
    wanted = set(cpus)
    try:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), wanted)
    except OSError:
        return False
    return True


def _speed(cpu: int, root: Path) -> int:
    """The kernel's own rating where cores differ, else the highest clock; 0 where it tells neither."""
    folder = root / f"sys/devices/system/cpu/cpu{cpu}"
    text = text_of(folder / "cpu_capacity") or text_of(folder / "cpufreq/cpuinfo_max_freq")
    return int(text) if text.isdecimal() else 0
