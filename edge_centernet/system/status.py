"""How the board is doing: temperature, throttling, load and memory, as far as it tells."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from edge_centernet.files import text_of

_KEEP_S = 2.0
_TEMPERATURES = (-40.0, 150.0)  # degrees Celsius; beyond that a sensor is broken or off
# The processor's sensor by the names that kernels give it, best first: most boards and x86; Rockchip and
# Jetson; any.
_SENSORS = (r"cpu|pkg", r"soc|tj|core", r"")
# Raspberry Pi's get_throttled: the bit for now; 16 places higher, since start-up.
_PI_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}

_lock = threading.Lock()
_kept: dict[Path, tuple[float, dict[str, Any]]] = {}


def board_status(root: Path = Path("/")) -> dict[str, Any]:
    """What the board tells of itself; what it does not tell is left out.

    temperature_c: of the processor. throttled: why it is slowed down now, empty when it is not.
      throttled_before: the
    same since start-up (Raspberry Pi only). load: tasks that ran or waited, mean of the last minute; cores:
    processors for them. memory_free_mb, memory_total_mb: millions of bytes. Read at most every two seconds.
    root: where /sys and /proc are.
    """
    now = time.monotonic()
    with _lock:
        read, status = _kept.get(root, (0.0, {}))
        if not status or now - read >= _KEEP_S:
            status = {**_temperature(root), **_throttling(root), **_load(root), **_memory(root)}
            _kept[root] = (now, status)
        return dict(status)


def _temperature(root: Path) -> dict[str, Any]:
    """The hottest of the sensors that name the processor best."""
    sensors = []
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        text = text_of(zone / "temp")
        if re.fullmatch(r"-?\d+", text) and _TEMPERATURES[0] <= int(text) / 1000 <= _TEMPERATURES[1]:
            sensors.append((text_of(zone / "type").lower(), int(text) / 1000))
    for pattern in _SENSORS:
        if matching := [degrees for kind, degrees in sensors if re.search(pattern, kind)]:
            return {"temperature_c": round(max(matching), 1)}
    return {}


def _throttling(root: Path) -> dict[str, Any]:
    """The Raspberry Pi's own word, or the kernel's cooling devices that hold back the processor."""
    bits = _pi_bits(root)
    if bits is not None:
        return {
            "throttled": [text for bit, text in _PI_BITS.items() if bits >> bit & 1],
            "throttled_before": [text for bit, text in _PI_BITS.items() if bits >> (bit + 16) & 1],
        }
    devices = list(root.glob("sys/class/thermal/cooling_device*"))
    brakes = [
        text_of(d / "cur_state")
        for d in devices
        if re.search(r"cpufreq|processor", text_of(d / "type").lower())
    ]
    if not brakes:
        return {}
    return {"throttled": ["slowed down by heat"] if any(state not in ("", "0") for state in brakes) else []}


def _pi_bits(root: Path) -> int | None:
    """From the firmware's driver, or through the Pi's own tool where a kernel has no such file."""
    for file in root.glob("sys/devices/platform/soc*/soc*firmware/get_throttled"):
        return _hex(text_of(file))
    tool = shutil.which("vcgencmd", path=str(root / "usr/bin"))
    if tool is None:
        return None
    try:
        answer = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, timeout=1, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _hex(answer.stdout.partition("=")[2].strip())


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]+", text) else None


def _load(root: Path) -> dict[str, Any]:
    load = re.match(r"\d+\.\d+", text_of(root / "proc/loadavg"))
    cores = len(re.findall(r"^cpu\d+ ", text_of(root / "proc/stat"), re.MULTILINE))
    return {**({"load": float(load.group())} if load else {}), **({"cores": cores} if cores else {})}


def _memory(root: Path) -> dict[str, Any]:
    text = text_of(root / "proc/meminfo")
    status = {}
    for name, key in (("MemAvailable", "memory_free_mb"), ("MemTotal", "memory_total_mb")):
        if found := re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE):
            status[key] = round(int(found.group(1)) * 1024 / 1e6)
    return status
