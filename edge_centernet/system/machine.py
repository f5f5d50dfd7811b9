"""Which machine this is, and how it does: board, system, processor, Python, disks, temperature, memory.

Read from /proc, /sys and /etc with the standard library alone, because `doctor` must work where everything
else is broken. What a machine does not report is left empty: no value is guessed.
"""

from __future__ import annotations

import ctypes
import getpass
import grp
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_centernet.extras import externally_managed
from edge_centernet.files import cache_home, text_of

Kind = Literal["pi", "jetson", "x86", "arm", "other"]


@dataclass(frozen=True)
class Disk:
    """A file system that is written to.

    path: a folder on it. used_for: what is written there. free_mb, total_mb: millions of bytes. files_left:
    whether it has room for another file (inodes).
    """

    path: str
    used_for: tuple[str, ...]
    free_mb: int
    total_mb: int
    files_left: bool = True


@dataclass(frozen=True)
class Machine:
    """Board, system and Python.

    machine: as the kernel reports it ("aarch64"). bits: of this Python; kernel_bits: of the kernel.
    l4t: release of NVIDIA's Linux for Tegra, such as (36, 4), on a Jetson.
    emulated: the processor is of another kind than the one that Python was built for (qemu-user).
    features: those of the processor that INT8 gains from.
    throttled, throttled_before: as in `board_status`.
    glibc: None with another C library.
    python: its version; executable: its path; externally_managed: whether the system keeps pip out of it.
    None in any field: the machine does not report it.
    """

    kind: Kind = "other"
    board: str = ""
    jetpack: str = ""
    l4t: tuple[int, int] | None = None
    system: str = ""
    kernel: str = ""
    machine: str = ""
    bits: int = 64
    kernel_bits: int = 64
    emulated: bool = False
    cpu: str = ""
    features: tuple[str, ...] = ()
    cores: int | None = None
    memory_total_mb: int | None = None
    memory_free_mb: int | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    throttled_before: tuple[str, ...] | None = None
    glibc: tuple[int, int] | None = None
    python: str = ""
    executable: str = ""
    externally_managed: bool = False
    disks: tuple[Disk, ...] = ()
    user: str = ""
    groups: tuple[str, ...] = ()

    @property
    def arm(self) -> bool:
        """Whether it is an ARM processor."""
        return is_arm(self.machine)

    @property
    def wheels(self) -> str:
        """The machine whose wheels fit: a 32-bit Python on a 64-bit kernel needs 32-bit ones."""
        if self.bits == 64:
            return self.machine
        return {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(self.machine, self.machine)

    @property
    def python_minor(self) -> tuple[int, int]:
        """(3, 11) of "3.11.2"."""
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)


# The words of /proc/cpuinfo that INT8 kernels look for, on x86 and on ARM.
_FEATURES = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "neon", "asimd", "asimddp", "i8mm", "sve")
# The same as bits of the auxiliary vector (asm/hwcap.h of Linux): (tag, bit) by word size.
_HWCAP, _HWCAP2 = 16, 26
_AUXV = {
    64: {"asimd": (_HWCAP, 1), "asimddp": (_HWCAP, 20), "sve": (_HWCAP, 22), "i8mm": (_HWCAP2, 13)},
    32: {"neon": (_HWCAP, 12), "asimddp": (_HWCAP, 24), "i8mm": (_HWCAP, 27)},
}
# (implementer, part) as /proc/cpuinfo has them: ARM processors report numbers, not names.
_ARM_CORES = {
    ("0x41", "0xb76"): "ARM1176",
    ("0x41", "0xc07"): "Cortex-A7",
    ("0x41", "0xc08"): "Cortex-A8",
    ("0x41", "0xc09"): "Cortex-A9",
    ("0x41", "0xc0f"): "Cortex-A15",
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse N1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x003"): "NVIDIA Denver",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}
_JETPACK = {28: "3", 32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}  # L4T's release -> JetPack's


def read_machine(root: Path = Path("/")) -> Machine:
    """Everything about this machine.

    root: where /proc, /sys and /etc are. Python and the kernel are always those of this process.
    """
    status = board_status(root)
    bits, cpuinfo = struct.calcsize("P") * 8, text_of(root / "proc/cpuinfo")
    names = os.uname()
    # Under qemu-user /proc/cpuinfo is the host's: an ARM processor has no vendor_id. What the emulator can do
    # stands in the auxiliary vector.
    emulated = is_arm(names.machine) and bool(re.search(r"^vendor_id\s*:", cpuinfo, re.MULTILINE))
    known = "" if emulated else cpuinfo
    throttled, before = status.get("throttled"), status.get("throttled_before")
    l4t = _l4t(root)
    system = re.search(r'^PRETTY_NAME="?([^"\n]+)', text_of(root / "etc/os-release"), re.MULTILINE)
    return Machine(
        kind=board_kind(root),
        board=board_model(root),
        jetpack="" if l4t is None else f"JetPack {_JETPACK.get(l4t[0], '?')} (L4T {l4t[0]}.{l4t[1]})",
        l4t=l4t,
        system=system[1] if system else platform.system(),
        kernel=names.release,
        machine=names.machine,
        bits=bits,
        kernel_bits=64 if bits == 64 or names.machine in ("aarch64", "x86_64") else 32,
        emulated=emulated,
        cpu=cpu_model(known),
        features=features(known) or (_features_by_auxv(bits) if is_arm(names.machine) else ()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_total_mb=status.get("memory_total_mb"),
        memory_free_mb=status.get("memory_free_mb"),
        temperature_c=status.get("temperature_c"),
        throttled=None if throttled is None else tuple(throttled),
        throttled_before=None if before is None else tuple(before),
        glibc=_glibc(),
        python=platform.python_version(),
        executable=sys.executable,
        externally_managed=externally_managed(),
        disks=read_disks(root),
        user=_user(),
        groups=tuple(sorted(group_name(gid) for gid in {os.getegid(), *os.getgroups()})),
    )


def board_kind(root: Path = Path("/")) -> Kind:
    """What computer this is."""
    model = board_model(root)
    if (root / "etc/nv_tegra_release").exists() or "jetson" in model.lower():
        return "jetson"
    if model.startswith("Raspberry Pi"):
        return "pi"
    machine = os.uname().machine
    if is_arm(machine):
        return "arm"
    return "x86" if machine == "x86_64" or re.fullmatch(r"i\d86", machine) else "other"


def board_model(root: Path = Path("/")) -> str:
    """The name of this computer in the device tree, or in a PC's firmware; empty where there is none."""
    firmware = root / "sys/class/dmi/id"
    names = (text_of(firmware / name) for name in ("sys_vendor", "product_name"))
    return device_tree_model(root) or " ".join(name for name in names if name)


def device_tree_model(root: Path = Path("/")) -> str:
    """The name of this computer in the device tree; empty on a PC, which has none."""
    # `deploy/agent.py` has a copy, because it runs on the board without this package.
    return text_of(root / "proc/device-tree/model").strip("\0\n ")


def is_arm(machine: str) -> bool:
    """Whether this is an ARM processor, 32 or 64 bits. machine: as `uname -m` prints it."""
    return machine.lower().startswith(("arm", "aarch"))


def _l4t(root: Path) -> tuple[int, int] | None:
    """(36, 4) of "# R36 (release), REVISION: 4.3, ..."."""
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)", text_of(root / "etc/nv_tegra_release"))
    return (int(found[1]), int(found[2])) if found else None


def cpu_model(cpuinfo: str) -> str:
    """The processor's name: x86 reports it in words, ARM by number, for each core (big and little differ)."""
    if found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return found[1].strip()
    makers = re.findall(r"^CPU implementer\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    cores = dict.fromkeys(
        _ARM_CORES.get(pair, f"ARM {pair[0]}/{pair[1]}") for pair in zip(makers, parts, strict=False)
    )
    return " + ".join(cores)


def features(cpuinfo: str) -> tuple[str, ...]:
    """The features of the first core that INT8 kernels gain from."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    words = set(found[1].split()) if found else set()
    return tuple(name for name in _FEATURES if name in words)


def _features_by_auxv(bits: int) -> tuple[str, ...]:
    """The same, as the kernel or the emulator passes it to each process when it starts."""
    try:
        ask = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return ()
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return tuple(name for name, (tag, bit) in _AUXV[bits].items() if ask(tag) >> bit & 1)


def _glibc() -> tuple[int, int] | None:
    try:
        found = re.fullmatch(r"glibc (\d+)\.(\d+).*", os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):  # another C library
        return None
    return (int(found[1]), int(found[2])) if found else None


def read_disks(root: Path = Path("/")) -> tuple[Disk, ...]:
    """The file systems that the package, its cache, temporary files and releases are on, each once."""
    places = [
        (Path(sys.prefix), "the installation"),
        (cache_home(), "the cache"),
        (Path(os.environ.get("TMPDIR") or "/tmp"), "temporary files"),
        (root / "opt/edge-centernet", "releases"),
        (root / "var/lib/edge-centernet", "the service's files"),
    ]
    # By device number, so that folders on one file system are one entry.
    found: dict[int, tuple[Path, list[str]]] = {}
    for place, used_for in places:
        if used_for in ("releases", "the service's files") and not place.exists():
            continue
        folder = next((p for p in (place, *place.parents) if p.exists()), None)
        if folder is not None:
            found.setdefault(folder.stat().st_dev, (folder, []))[1].append(used_for)
    disks = []
    for folder, uses in found.values():
        about = os.statvfs(folder)
        disks.append(
            Disk(
                str(folder),
                tuple(uses),
                free_mb=round(about.f_bavail * about.f_frsize / 1e6),
                total_mb=round(about.f_blocks * about.f_frsize / 1e6),
                files_left=about.f_files == 0 or about.f_favail > 0,  # btrfs and vfat count no files
            )
        )
    return tuple(disks)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a number without a name
        return str(os.getuid())


def group_name(gid: int) -> str:
    """The name of a group, or its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# ---- how it does --------------------------------------------------------------------------------------

_KEEP_S = 2.0  # seconds; a reading may start a program (vcgencmd), and several readers ask at the same time
_TEMPERATURES = (-40.0, 150.0)  # degrees Celsius; beyond that a sensor is broken or off
# The processor's sensor by the names that kernels give it, the most specific first: most boards and x86;
# Rockchip and Jetson; any.
_SENSORS = (r"cpu|pkg", r"soc|tj|core", r"")
# Raspberry Pi's get_throttled: the bit for now; 16 places higher, since start-up.
_PI_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}

_lock = threading.Lock()
_kept: dict[Path, tuple[float, dict[str, Any]]] = {}


def board_status(root: Path = Path("/")) -> dict[str, Any]:
    """How the board does: temperature, throttling, load, memory. What it does not report is left out.

    temperature_c: of the processor.
    throttled: why it is slowed down now, empty when it is not.
    throttled_before: the same since start-up (Raspberry Pi only).
    load: tasks that ran or waited, mean of the last minute. cores: processors for them.
    memory_free_mb, memory_total_mb: millions of bytes.

    Read at most every two seconds. root: where /sys and /proc are.
    """
    now = time.monotonic()
    with _lock:
        read, status = _kept.get(root, (0.0, {}))
        if not status or now - read >= _KEEP_S:
            status = {**_temperature(root), **_throttling(root)}
            if load := re.match(r"\d+\.\d+", text_of(root / "proc/loadavg")):
                status["load"] = float(load.group())
            if cores := len(re.findall(r"^cpu\d+ ", text_of(root / "proc/stat"), re.MULTILINE)):
                status["cores"] = cores
            memory = text_of(root / "proc/meminfo")
            for name, key in (("MemAvailable", "memory_free_mb"), ("MemTotal", "memory_total_mb")):
                if found := re.search(rf"^{name}:\s+(\d+) kB", memory, re.MULTILINE):
                    status[key] = round(int(found.group(1)) * 1024 / 1e6)
            _kept[root] = (now, status)
        return dict(status)


def _temperature(root: Path) -> dict[str, Any]:
    """The hottest of the sensors whose names fit the processor best."""
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
    """From the Raspberry Pi's firmware, else from the kernel's cooling devices for the processor."""
    # The firmware first: it also knows of under-voltage, and of what has passed since start-up.
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
    """From the firmware's driver, or from the Pi's own tool where the kernel has no such file."""
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
