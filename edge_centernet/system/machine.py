"""Board, system, processor, Python, disks: read from /proc, /sys and /etc, with the standard library."""

from __future__ import annotations

import ctypes
import getpass
import grp
import os
import platform
import re
import struct
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_centernet.files import text_of
from edge_centernet.system.status import board_status

Kind = Literal["pi", "jetson", "x86", "arm", "other"]


@dataclass(frozen=True)
class Disk:
    """A file system that is written to. path: a folder on it; used_for: what for. Millions of bytes; files: inodes."""

    path: str
    used_for: tuple[str, ...]
    free_mb: int
    total_mb: int
    files_left: bool = True


@dataclass(frozen=True)
class Machine:
    """Board, system and Python.

    machine: as the kernel says it ("aarch64"); bits: of this Python; kernel_bits: of the kernel. l4t: (36, 4)
      on a
    Jetson. emulated: the processor is another kind than the one that Python was built for. features: those of
    the processor that INT8 gains from. glibc: None with another C library. python: version; executable: its
    path;
    externally_managed: whether the system keeps pip out of it.
    throttled, throttled_before: as `system.status` tells. None: the machine does not tell.
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
        """The machine whose wheels fit: a 32-bit Python on a 64-bit kernel takes 32-bit ones."""
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
# Of the auxiliary vector, where cpuinfo is another machine's (qemu-user): (tag, bit) by word size.
_HWCAP, _HWCAP2 = 16, 26
_AUXV = {
    64: {"asimd": (_HWCAP, 1), "asimddp": (_HWCAP, 20), "sve": (_HWCAP, 22), "i8mm": (_HWCAP2, 13)},
    32: {"neon": (_HWCAP, 12), "asimddp": (_HWCAP, 24), "i8mm": (_HWCAP, 27)},
}
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
    """Everything about this machine. root: where /proc, /sys and /etc are; Python and the kernel are this process's."""
    status = board_status(root)
    bits, cpuinfo = struct.calcsize("P") * 8, text_of(root / "proc/cpuinfo")
    names = os.uname()
    emulated = is_arm(names.machine) and bool(re.search(r"^vendor_id\s*:", cpuinfo, re.MULTILINE))
    known = "" if emulated else cpuinfo
    throttled, before = status.get("throttled"), status.get("throttled_before")
    return Machine(
        kind=board_kind(root),
        board=board_model(root),
        jetpack=_jetpack(root),
        l4t=_l4t(root),
        system=_system(root),
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
        externally_managed=_externally_managed(),
        disks=read_disks(root),
        user=_user(),
        groups=_groups(),
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
    """The name that the device tree or the firmware has for this computer; empty where there is none."""
    firmware = root / "sys/class/dmi/id"
    names = (text_of(firmware / name) for name in ("sys_vendor", "product_name"))
    return device_tree_model(root) or " ".join(name for name in names if name)


def device_tree_model(root: Path = Path("/")) -> str:
    """The name in the device tree; empty on a PC, which has none. `deploy/agent.py` has a copy: it runs alone."""
    return text_of(root / "proc/device-tree/model").strip("\0\n ")


def is_arm(machine: str) -> bool:
    """Whether this is an ARM processor, 32 or 64 bits. machine: as `uname -m` prints it."""
    return machine.lower().startswith(("arm", "aarch"))


def _l4t(root: Path) -> tuple[int, int] | None:
    """(36, 4) of "# R36 (release), REVISION: 4.3, ..."."""
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)", text_of(root / "etc/nv_tegra_release"))
    return (int(found[1]), int(found[2])) if found else None


def _jetpack(root: Path) -> str:
    """Such as "JetPack 6 (L4T 36.4)"."""
    l4t = _l4t(root)
    return "" if l4t is None else f"JetPack {_JETPACK.get(l4t[0], '?')} (L4T {l4t[0]}.{l4t[1]})"


def _system(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', text_of(root / "etc/os-release"), re.MULTILINE)
    return found[1] if found else platform.system()


def cpu_model(cpuinfo: str) -> str:
    """The processor's name: x86 has it in words, ARM by number."""
    if found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
        return found[1].strip()
    makers = re.findall(r"^CPU implementer\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    cores = dict.fromkeys(
        _ARM_CORES.get(pair, f"ARM {pair[0]}/{pair[1]}") for pair in zip(makers, parts, strict=False)
    )
    return " + ".join(cores)


def features(cpuinfo: str) -> tuple[str, ...]:
    """What the first core can do, of that which INT8 gains from."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    words = set(found[1].split()) if found else set()
    return tuple(name for name in _FEATURES if name in words)


def _features_by_auxv(bits: int) -> tuple[str, ...]:
    """The same as the kernel, or the emulator, tells each process when it starts."""
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
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    places = [
        (Path(sys.prefix), "the installation"),
        (cache, "the cache"),
        (Path(os.environ.get("TMPDIR") or "/tmp"), "temporary files"),
        (root / "opt/edge-centernet", "releases"),
        (root / "var/lib/edge-centernet", "the service's files"),
    ]
    found: dict[int, tuple[Path, list[str]]] = {}
    for place, used_for in places:
        if used_for in ("releases", "the service's files") and not place.exists():
            continue
        folder = next((p for p in (place, *place.parents) if p.exists()), None)
        if folder is not None:
            found.setdefault(folder.stat().st_dev, (folder, []))[1].append(used_for)
    return tuple(_disk(folder, tuple(used_for)) for folder, used_for in found.values())


def _disk(folder: Path, used_for: tuple[str, ...]) -> Disk:
    about = os.statvfs(folder)
    return Disk(
        str(folder),
        used_for,
        round(about.f_bavail * about.f_frsize / 1e6),
        round(about.f_blocks * about.f_frsize / 1e6),
        about.f_files == 0 or about.f_favail > 0,  # btrfs and vfat count no files
    )


def _externally_managed() -> bool:
    """Whether this is the system's Python and marked as its own (PEP 668)."""
    return sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a number without a name
        return str(os.getuid())


def _groups() -> tuple[str, ...]:
    return tuple(sorted(group_name(gid) for gid in {os.getegid(), *os.getgroups()}))


def group_name(gid: int) -> str:
    """The name of a group, or its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
