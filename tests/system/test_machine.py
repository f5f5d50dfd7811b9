"""What a machine is, read from trees of files as boards have them, and from the one that runs the tests."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from healthy import tree

from edge_centernet.system.machine import board_kind, cpu_model, features, read_disks, read_machine

PI_4 = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
PI_5 = PI_4.replace("evtstrm", "evtstrm aes asimdhp asimddp").replace("0xd08", "0xd0b")


def test_a_raspberry_pi_is_told_by_its_device_tree(tmp_path: Path) -> None:
    """The model ends with a NUL byte there."""
    root = tree(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "proc/cpuinfo": PI_5,
        },
    )
    machine = read_machine(root)

    assert (machine.kind, machine.board) == ("pi", "Raspberry Pi 5 Model B Rev 1.0")
    assert machine.system == "Debian GNU/Linux 12 (bookworm)"
    assert (machine.cpu, machine.features) == ("Cortex-A76", ("asimd", "asimddp"))


def test_a_jetson_tells_its_jetpack(tmp_path: Path) -> None:
    """By the release of L4T."""
    root = tree(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        },
    )
    machine = read_machine(root)

    assert (machine.kind, machine.jetpack, machine.l4t) == ("jetson", "JetPack 6 (L4T 36.4)", (36, 4))


@pytest.mark.parametrize(
    ("cpuinfo", "name", "can"),
    [
        (PI_4, "Cortex-A72", ("asimd",)),
        (PI_4 + PI_5, "Cortex-A72 + Cortex-A76", ("asimd",)),
        (PI_4.replace("0xd08", "0xfff"), "ARM 0x41/0xfff", ("asimd",)),
        (PI_4.replace("fp asimd", "half neon"), "Cortex-A72", ("neon",)),
        (
            "model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n",
            "Intel(R) Xeon(R)",
            ("avx2", "avx512_vnni", "amx_int8"),
        ),
        ("", "", ()),
    ],
)
def test_what_a_processor_can_do(cpuinfo: str, name: str, can: tuple[str, ...]) -> None:
    """Its name and what INT8 gains from."""
    assert (cpu_model(cpuinfo), features(cpuinfo)) == (name, can)


def test_a_machine_without_any_of_these_files_is_no_error(tmp_path: Path) -> None:
    """Python and the kernel are always known."""
    machine = read_machine(tmp_path)

    assert (machine.board, machine.cpu, machine.l4t, machine.memory_total_mb) == ("", "", None, None)
    assert (machine.python, machine.executable) == (platform.python_version(), sys.executable)
    assert board_kind(tmp_path) in ("x86", "arm", "other")


def test_this_machine_is_told_as_it_tells_itself() -> None:
    """Compared with the system's own programs."""
    machine = read_machine()

    assert subprocess.check_output(["uname", "-m"], text=True).strip() == machine.machine
    words = subprocess.check_output(["getconf", "GNU_LIBC_VERSION"], text=True).split()
    assert words == ["glibc", ".".join(map(str, machine.glibc or ()))]
    assert subprocess.check_output(["nproc"], text=True, env={"PATH": os.environ["PATH"]}).strip() == str(
        machine.cores
    )
    assert set(subprocess.check_output(["id", "-Gn"], text=True).split()) == set(machine.groups)
    assert machine.bits == (64 if sys.maxsize > 2**32 else 32)


def test_disks_are_those_that_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file system once, with all that it is for; a cache that does not exist yet counts by its parent."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not/yet/there"))
    tree(tmp_path, {"opt/edge-centernet/current/x": ""})
    disks = read_disks(tmp_path)

    assert len({os.stat(disk.path).st_dev for disk in disks}) == len(disks)
    used_for = [what for disk in disks for what in disk.used_for]
    assert sorted(used_for) == ["releases", "temporary files", "the cache", "the installation"]
    about = os.statvfs(disks[0].path)
    assert disks[0].total_mb == round(about.f_blocks * about.f_frsize / 1e6)
