"""Flashing a Jetson: NVIDIA's tree and the board are checked, and their own command comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Result

from edge_centernet.errors import TargetError
from edge_centernet.sdcard import jetson_flash
from edge_centernet.sdcard.jetson_flash import RECOVERY, check_tree, command, find_module

RELEASES = {
    36: (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "generic",
        "flash_l4t_t234_nvme.xml",
    ),
    35: (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        "t186ref",
        "flash_l4t_external.xml",
    ),
    32: ("# R32 (release), REVISION: 7.4, GCID: 33514132, BOARD: t210ref, EABI: aarch64", "t210ref", ""),
}
BOARDS = (
    "jetson-orin-nano-devkit",
    "jetson-agx-orin-devkit",
    "jetson-nano-devkit",
    "jetson-xavier-nx-devkit",
)


def l4t(folder: Path, release: int) -> Path:
    """The parts of a Linux_for_Tegra folder that are looked at."""
    text, kind, layout = RELEASES[release]
    root = folder / "Linux_for_Tegra"
    files = ["flash.sh", f"bootloader/{kind}/cfg/flash_t234_qspi.xml", "kernel/Image", "rootfs/usr/bin/true"]
    files += [f"tools/kernel_flash/{name}" for name in ("l4t_initrd_flash.sh", layout) if name]
    for name in [*files, *(f"{board}.conf" for board in BOARDS)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "rootfs/etc").mkdir()
    (root / "rootfs/etc/nv_tegra_release").write_text(text + "\n")
    return root


def usb(root: Path, *products: str) -> Path:
    """USB devices of NVIDIA, a hub, and an interface, as sysfs has them."""
    for i, (vendor, product) in enumerate([("1d6b", "0002"), *(("0955", product) for product in products)]):
        device = root / f"sys/bus/usb/devices/1-{i}"
        device.mkdir(parents=True)
        (device / "idVendor").write_text(f"{vendor}\n")
        (device / "idProduct").write_text(f"{product}\n")
    (root / "sys/bus/usb/devices/1-0:1.0").mkdir()
    return root


@pytest.mark.parametrize(
    ("release", "product", "board", "storage", "expected"),
    [
        (
            36, "7523", "jetson-orin-nano-devkit", "nvme",
            "sudo ./tools/kernel_flash/l4t_initrd_flash.sh --external-device nvme0n1p1 "
            "-c tools/kernel_flash/flash_l4t_t234_nvme.xml|-p|-c bootloader/generic/cfg/flash_t234_qspi.xml|"
            "--showlogs --network usb0 jetson-orin-nano-devkit internal",
        ),
        (
            35, "7323", "jetson-orin-nano-devkit", "usb",
            "sudo ./tools/kernel_flash/l4t_initrd_flash.sh --external-device sda1 "
            "-c tools/kernel_flash/flash_l4t_external.xml|-p|-c bootloader/t186ref/cfg/flash_t234_qspi.xml|"
            "--showlogs --network usb0 jetson-orin-nano-devkit internal",
        ),
        (
            36, "7023", "jetson-agx-orin-devkit", "nvme",
            "sudo ./tools/kernel_flash/l4t_initrd_flash.sh --external-device nvme0n1p1 "
            "-c tools/kernel_flash/flash_l4t_t234_nvme.xml --showlogs --network usb0 "
            "jetson-agx-orin-devkit external",
        ),
        (36, "7223", "jetson-agx-orin-devkit", "emmc", "sudo ./flash.sh jetson-agx-orin-devkit internal"),
        (32, "7f21", "jetson-nano-devkit", "sd", "sudo ./flash.sh jetson-nano-devkit mmcblk0p1"),
    ],
)  # fmt: skip
def test_command_is_that_of_nvidias_guide(
    release: int, product: str, board: str, storage: str, expected: str, tmp_path: Path
) -> None:
    """Release, module and storage give the command of the Quick Start of that release."""
    tree = check_tree(l4t(tmp_path, release), board)
    module = find_module(board, usb(tmp_path, product))
    words = [
        word
        for i, part in enumerate(expected.split("|"))
        for word in ([part] if i in (1, 2) else part.split())
    ]
    assert command(tree, module, storage) == words


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("flash.sh", "flash.sh is missing; unpack Jetson_Linux"),
        ("bootloader", "bootloader is missing"),
        ("rootfs/usr", "is empty; unpack Tegra_Linux_Sample-Root-Filesystem"),
        ("rootfs/etc/nv_tegra_release", r"run sudo \./apply_binaries\.sh"),
        (
            "jetson-nano-devkit.conf",
            "has no board jetson-nano-devkit; it has jetson-agx-orin-devkit, jetson-orin-nano",
        ),
    ],
)
def test_incomplete_tree_names_the_step_that_is_missing(missing: str, says: str, tmp_path: Path) -> None:
    """What is not there is named, with what NVIDIA's guide does about it."""
    root = l4t(tmp_path, 36)
    (root / missing).rename(tmp_path / "away")
    with pytest.raises(TargetError, match=says):
        check_tree(tmp_path, "jetson-nano-devkit")


@pytest.mark.parametrize(
    ("products", "says"),
    [
        ((), "expected a Jetson in recovery mode on USB, none is there"),
        (("7020",), "one that has started normally is there; hold its recovery button"),
        (("7523", "7f21"), r"got 2 \(Orin Nano 8GB, Nano\); unplug the others"),
        (("7023",), "is AGX Orin 64GB, for which jetson-orin-nano-devkit is not"),
    ],
)
def test_board_that_cannot_be_flashed_is_named(products: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """None, one that runs, several, another module than the configuration is for."""
    with pytest.raises(TargetError, match=says):
        find_module("jetson-orin-nano-devkit", usb(tmp_path, *products))


def test_configuration_of_another_maker_fits_any_module(tmp_path: Path) -> None:
    """Carrier boards of others have names of their own."""
    assert find_module("recomputer-orin-j401", usb(tmp_path, "7323")) == RECOVERY["7323"]


@pytest.mark.parametrize(
    ("release", "product", "board", "storage", "says"),
    [
        (36, "7f21", "jetson-nano-devkit", "sd", r"needs L4T 32 \(JetPack 4\), this tree is 36\.4\.3"),
        (32, "7523", "jetson-orin-nano-devkit", "sd", "needs L4T 35 or later"),
        (36, "7523", "jetson-orin-nano-devkit", "emmc", "has no eMMC; use sd, nvme or usb"),
        (32, "7f21", "jetson-nano-devkit", "nvme", "can be flashed to sd or emmc, not to nvme"),
    ],
)
def test_what_cannot_work_is_refused(
    release: int, product: str, board: str, storage: str, says: str, tmp_path: Path
) -> None:
    """A release that does not know the module, a storage that it has not."""
    tree = check_tree(l4t(tmp_path, release), board)
    with pytest.raises(TargetError, match=says):
        command(tree, RECOVERY[product], storage)


def test_execute_runs_the_command_in_the_tree(tmp_path: Path) -> None:
    """The tool runs where it expects to be; its failure is ours."""
    root = l4t(tmp_path, 36)
    tree = check_tree(root, "jetson-orin-nano-devkit")
    jetson_flash.execute(tree, ["sh", "-c", "pwd > ran"])
    assert (root / "ran").read_text().strip() == str(root)
    with pytest.raises(TargetError, match="ended with 3"):
        jetson_flash.execute(tree, ["sh", "-c", "exit 3"])


def test_command_line_asks_for_the_board(tmp_path: Path, run: Callable[..., Result]) -> None:
    """`flash --jetson` without a board in recovery mode names the way there. --execute needs --jetson."""
    root = l4t(tmp_path, 36)
    result = run("flash", "--jetson", root, "jetson-orin-nano-devkit")
    assert result.code == 2
    assert "expected a Jetson in recovery mode on USB, none is there" in result.err
    assert "--execute: only applies to --jetson" in run("flash", "--execute", "a.img", "b.img").err
