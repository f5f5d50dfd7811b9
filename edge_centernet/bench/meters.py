"""Memory of a process and energy of the machine, as far as the system tells."""

from __future__ import annotations

import re
import resource
import threading
import time
from pathlib import Path
from typing import Protocol

from edge_centernet.files import text_of

_PERIOD_S = (
    0.1  # between two readings of a power sensor; an INA3221 averages over some 10 ms to 100 ms itself
)
# What feeds the whole Jetson, by JetPack's names over the years; without one of them the largest rail is not
# known.
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "VDD_IN_SYS")


def peak_rss_mb() -> float:
    """The most memory this process has had resident (VmHWM), in millions of bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", text_of(Path("/proc/self/status")), re.MULTILINE)
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e6


def forget_peak() -> bool:
    """Let `peak_rss_mb` begin anew with what is resident now. Whether the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available_mb(root: Path = Path("/")) -> float | None:
    """Memory that a new process could have now, in millions of bytes; None where the system does not tell."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else None


class Meter(Protocol):
    """Energy between two moments. name: what is measured, such as "RAPL package-0"."""

    name: str

    def start(self) -> None:
        """Begin; may be called again and again."""

    def stop(self) -> float:
        """Joules since `start`."""


def find_meter(root: Path = Path("/")) -> Meter | str:
    """What tells the energy on this machine, or why nothing does. root: where /sys is."""
    packages = [
        f for f in sorted(root.glob("sys/class/powercap/*:*")) if text_of(f / "name").startswith("package")
    ]
    if packages:
        if all(text_of(folder / "energy_uj").isdecimal() for folder in packages):
            return Rapl(packages)
        return "RAPL is there, but its counters may be read by root only (/sys/class/powercap/*/energy_uj)"
    rails = {
        name: rail for folder in sorted(root.glob("sys/class/hwmon/hwmon*")) for name, rail in _rails(folder)
    }
    whole = next((name for name in _WHOLE_BOARD if name in rails), None)
    if whole or len(rails) == 1:
        name = whole or next(iter(rails))
        return Sampled(name, *rails[name])
    if rails:
        return f"which of the sensors {', '.join(rails)} feeds the whole board is not known"
    return "this machine shows no RAPL (/sys/class/powercap) and no INA power sensor (/sys/class/hwmon)"


class Rapl:
    """Running Average Power Limit: the processor's own counters, of all its packages together, without the memory."""

    def __init__(self, packages: list[Path]) -> None:
        """packages: folders of /sys/class/powercap."""
        self._packages = packages
        self.name = "RAPL " + ", ".join(text_of(folder / "name") for folder in packages)
        self.start()

    def start(self) -> None:
        """See Meter.start."""
        self._before = self._read()

    def stop(self) -> float:
        """See Meter.stop. A counter that has begun anew since is understood, once."""
        total = 0
        for folder, before, after in zip(self._packages, self._before, self._read(), strict=True):
            again = int(text_of(folder / "max_energy_range_uj") or 0) if after < before else 0
            total += after - before + again
        return total / 1e6

    def _read(self) -> list[int]:
        return [int(text_of(folder / "energy_uj")) for folder in self._packages]


class Sampled:
    """A sensor of voltage and current, or of power, read ten times a second while it is asked for energy."""

    def __init__(self, rail: str, *files: tuple[Path, float]) -> None:
        """rail: its name. files: each with the factor to volts and amperes, or to watts; power is their product."""
        self.name = f"INA {rail}"
        self._files = files
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See Meter.start."""
        self._stopped.set()
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
        """Now; 0 where the driver refuses."""
        power = 1.0
        for path, factor in self._files:
            text = text_of(path)
            power *= factor * int(text) if re.fullmatch(r"-?\d+", text) else 0.0
        return power

    def _sample(self, stopped: threading.Event) -> None:
        last = time.monotonic(), self.watts()
        while not stopped.wait(_PERIOD_S):
            last = self._add(*last)
        self._add(*last)

    def _add(self, before: float, power: float) -> tuple[float, float]:
        """One trapezium; its right side."""
        now, after = time.monotonic(), self.watts()
        self._joules += 0.5 * (power + after) * (now - before)
        return now, after


def _rails(folder: Path) -> list[tuple[str, tuple[tuple[Path, float], ...]]]:
    """(name, files) of each rail that an INA chip measures: in1 with curr1 and so on, or power1."""
    if not text_of(folder / "name").startswith("ina"):
        return []
    found: list[tuple[str, tuple[tuple[Path, float], ...]]] = []
    for current in sorted(folder.glob("curr[1-3]_input")):
        number = current.name[4]
        voltage = folder / f"in{number}_input"
        if voltage.exists():
            label = text_of(folder / f"in{number}_label") or f"{folder.name} rail {number}"
            found.append((label, ((voltage, 1e-3), (current, 1e-3))))  # millivolts, milliamperes
    if not found and (folder / "power1_input").exists():
        found.append(
            (text_of(folder / "power1_label") or folder.name, ((folder / "power1_input", 1e-6),))
        )  # microwatts
    return found
