"""What boards tell of themselves, read from trees of files as their kernels show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_centernet.system import status as status_module
from edge_centernet.system.status import board_status

THERMAL = "sys/class/thermal"
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write them below `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


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
    monkeypatch.setattr(status_module, "_KEEP_S", 0.0)
    assert board_status(root)["temperature_c"] == 50.0


def test_this_computer_tells_its_load_and_memory() -> None:
    """Whatever runs these tests has both."""
    status = board_status()
    assert status["load"] >= 0
    assert status["cores"] >= 1
    assert 0 < status["memory_free_mb"] <= status["memory_total_mb"]
