"""What a machine is, read from trees of files as boards have them, and from the one that runs the tests."""

from __future__ import annotations

import os
import platform
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from healthy import tree

from edge_centernet import files
from edge_centernet.deploy.signing import signing_key
from edge_centernet.errors import ConfigError
from edge_centernet.runtimes import compile_cache
from edge_centernet.system import machine as machine_module
from edge_centernet.system.machine import (
    board_kind,
    board_status,
    cpu_model,
    features,
    read_disks,
    read_machine,
)

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


class TestWithoutAHome:
    """A user number that /etc/passwd does not list, and no HOME: usual in containers."""

    @pytest.fixture(autouse=True)
    def _no_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(number: int) -> pwd.struct_passwd:
            raise KeyError(f"getpwuid(): uid not found: {number}")

        for name in ("HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        files._homeless_cache.cache_clear()

    def test_the_cache_is_a_private_folder_among_the_temporary_files(self, tmp_path: Path) -> None:
        """Of this user alone, and the same one at the next start."""
        folder = files.cache_home()
        files._homeless_cache.cache_clear()

        assert folder == tmp_path / f"edge-centernet-{os.getuid()}" == files.cache_home()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert compile_cache.folder().is_relative_to(folder)
        assert read_disks()

    def test_a_folder_that_others_can_write_is_not_used(self, tmp_path: Path) -> None:
        """Engines trust what is cached: someone else may have put it there, or a link."""
        theirs = tmp_path / f"edge-centernet-{os.getuid()}"
        theirs.mkdir()
        theirs.chmod(0o777)
        assert files.cache_home() not in (theirs, None)
        theirs.rmdir()
        theirs.symlink_to(tmp_path)
        files._homeless_cache.cache_clear()
        assert files.cache_home().parent == tmp_path
        assert files.cache_home() != theirs

    def test_what_must_be_kept_asks_for_a_home(self) -> None:
        """A signing key among the temporary files would be lost, and with it the way to update boards."""
        with pytest.raises(ConfigError, match=r"bundle_ed25519: user \d+ has no home folder; set HOME"):
            signing_key(None)


def test_a_jetson_tells_its_jetpack(tmp_path: Path) -> None:
    """By the release of L4T."""
    root = tree(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, EABI: aarch64\n",
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
    """Each file system once, with all that it is for; a cache that does not exist counts by its parent."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not/yet/there"))
    tree(tmp_path, {"opt/edge-centernet/current/x": ""})
    disks = read_disks(tmp_path)

    assert len({os.stat(disk.path).st_dev for disk in disks}) == len(disks)
    used_for = [what for disk in disks for what in disk.used_for]
    assert sorted(used_for) == ["releases", "temporary files", "the cache", "the installation"]
    about = os.statvfs(disks[0].path)
    assert disks[0].total_mb == round(about.f_blocks * about.f_frsize / 1e6)


# ---- how it does ---------------------------------------------------------------------------------

THERMAL = "sys/class/thermal"
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def zones(*pairs: tuple[str, str]) -> dict[str, str]:
    """Thermal zones of these types and readings (thousandths of a degree)."""
    named = enumerate(pairs)
    return {
        f"{THERMAL}/thermal_zone{i}/{key}": f"{text}\n"
        for i, p in named
        for key, text in zip(("type", "temp"), p, strict=True)
    }


def test_a_raspberry_pi_tells_all(tmp_path: Path) -> None:
    """0x50005: too little voltage and throttled, now and before."""
    root = tree(
        tmp_path,
        {
            **zones(("cpu-thermal", "61835")),
            PI: "50005\n",
            "proc/loadavg": "2.15 1.90 1.20 3/180 2214\n",
            "proc/stat": "cpu  1 2 3\ncpu0 1 2 3\ncpu1 1 2 3\ncpu2 1 2 3\ncpu3 1 2 3\nintr 5\n",
            "proc/meminfo": "MemTotal:        3884380 kB\nMemFree:  1 kB\nMemAvailable:    2912340 kB\n",
        },
    )
    assert board_status(root) == {
        "temperature_c": 61.8,
        "throttled": ["under-voltage", "throttled"],
        "throttled_before": ["under-voltage", "throttled"],
        "load": 2.15,
        "cores": 4,
        "memory_free_mb": 2982,
        "memory_total_mb": 3978,
    }


@pytest.mark.parametrize(
    ("bits", "now", "before"),
    [
        ("0", [], []),
        ("0x80008", ["soft temperature limit"], ["soft temperature limit"]),
        ("20000", [], ["frequency capped"]),
        ("2", ["frequency capped"], []),
    ],
)
def test_the_bits_of_a_raspberry_pi(tmp_path: Path, bits: str, now: list[str], before: list[str]) -> None:
    """Bits 0 to 3 are now, 16 to 19 since start-up."""
    status = board_status(tree(tmp_path, {PI: bits}))
    assert (status["throttled"], status["throttled_before"]) == (now, before)


def test_a_raspberry_pi_without_that_file_is_asked_by_its_tool(tmp_path: Path) -> None:
    """`vcgencmd get_throttled` answers throttled=0x..."""
    root = tree(
        tmp_path, {"usr/bin/vcgencmd": '#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50000\n'}
    )
    (root / "usr/bin/vcgencmd").chmod(0o755)
    assert board_status(root) == {"throttled": [], "throttled_before": ["under-voltage", "throttled"]}


def test_a_tool_that_fails_tells_nothing(tmp_path: Path) -> None:
    """It needs the group "video", and says so on standard error."""
    root = tree(tmp_path, {"usr/bin/vcgencmd": "#!/bin/sh\necho VCHI initialization failed\nexit 255\n"})
    (root / "usr/bin/vcgencmd").chmod(0o755)
    assert board_status(root) == {}


def test_a_jetson_is_as_hot_as_its_processor(tmp_path: Path) -> None:
    """Not as its power chip, which always says 50 or 100 degrees; a sensor that is off cannot be read."""
    root = tree(
        tmp_path,
        zones(
            ("CPU-therm", "44500"), ("GPU-therm", "46000"), ("PMIC-Die", "100000"), ("Tboard_tegra", "39000")
        ),
    )
    (root / THERMAL / "thermal_zone9" / "temp").mkdir(
        parents=True
    )  # reading it fails, as with a sensor that is off
    assert board_status(root) == {"temperature_c": 44.5}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ((("soc-thermal", "51111"), ("gpu-thermal", "70000")), 51.1),
        ((("cpu0-thermal", "50000"), ("cpu1-thermal", "58000"), ("soc-thermal", "90000")), 58.0),
        ((("acpitz", "27800"), ("x86_pkg_temp", "64000")), 64.0),
        ((("strange", "33000"),), 33.0),
        ((("cpu-thermal", "-274000"), ("gpu-thermal", "40000")), 40.0),
    ],
)
def test_the_best_sensor_is_taken(
    tmp_path: Path, pairs: tuple[tuple[str, str], ...], expected: float
) -> None:
    """The hottest of those that are the processor's, else the chip's, else any; never an impossible one."""
    assert board_status(tree(tmp_path, zones(*pairs)))["temperature_c"] == expected


@pytest.mark.parametrize(("state", "expected"), [("0", []), ("3", ["slowed down by heat"])])
def test_other_boards_tell_by_their_cooling_devices(tmp_path: Path, state: str, expected: list[str]) -> None:
    """The kernel's brake on the processor; a fan that turns is none."""
    files = {
        f"{THERMAL}/cooling_device0/type": "thermal-cpufreq-0\n",
        f"{THERMAL}/cooling_device0/cur_state": f"{state}\n",
        f"{THERMAL}/cooling_device1/type": "pwm-fan\n",
        f"{THERMAL}/cooling_device1/cur_state": "4\n",
    }
    assert board_status(tree(tmp_path, files)) == {"throttled": expected}


def test_a_board_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    """Nor are files with something else in them."""
    assert board_status(tmp_path / "nothing") == {}
    files = {**zones(("cpu-thermal", "hot")), PI: "?", "proc/loadavg": "", "proc/meminfo": "MemTotal: x\n"}
    assert board_status(tree(tmp_path, files)) == {}


def test_it_is_read_at_most_every_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five states a second must not mean five readings."""
    root = tree(tmp_path, zones(("cpu-thermal", "40000")))
    assert board_status(root)["temperature_c"] == 40.0
    tree(tmp_path, zones(("cpu-thermal", "50000")))
    assert board_status(root)["temperature_c"] == 40.0
    monkeypatch.setattr(machine_module, "_KEEP_S", 0.0)
    assert board_status(root)["temperature_c"] == 50.0


def test_this_computer_tells_its_load_and_memory() -> None:
    """Whatever runs these tests has both."""
    status = board_status()
    assert status["load"] >= 0
    assert status["cores"] >= 1
    assert 0 < status["memory_free_mb"] <= status["memory_total_mb"]
