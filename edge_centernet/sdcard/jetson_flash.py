"""Flash a Jetson with NVIDIA's own tools: check that everything is there, and show or run their command.

A Jetson's boot loader is signed for each module and written over USB in recovery mode, which is NVIDIA's code
alone. The source of all names and numbers is NVIDIA's Jetson Linux Developer Guide and its flashing scripts.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_centernet.errors import TargetError
from edge_centernet.files import text_of

_NVIDIA = "0955"  # USB vendor id


class Module(NamedTuple):
    """A kind of Jetson. soc: NVIDIA's name of the chip; configs: how its board configurations are named."""

    name: str
    soc: str
    configs: tuple[str, ...]


_ORIN_NANO = ("jetson-orin-nano", "p3768", "p3509-a02+p3767")
# USB product id in recovery mode -> module, from l4t_initrd_flash.sh and the Quick Start guides.
RECOVERY = {
    "7023": Module("AGX Orin 64GB", "t234", ("jetson-agx-orin",)),
    "7223": Module("AGX Orin 32GB", "t234", ("jetson-agx-orin",)),
    "7323": Module("Orin NX 16GB", "t234", _ORIN_NANO),
    "7423": Module("Orin NX 8GB", "t234", _ORIN_NANO),
    "7523": Module("Orin Nano 8GB", "t234", _ORIN_NANO),
    "7623": Module("Orin Nano 4GB", "t234", _ORIN_NANO),
    "7019": Module("AGX Xavier", "t194", ("jetson-agx-xavier", "jetson-xavier")),
    "7e19": Module("Xavier NX", "t194", ("jetson-xavier-nx",)),
    "7c18": Module("TX2", "t186", ("jetson-tx2",)),
    "7f21": Module("Nano", "t210", ("jetson-nano",)),
}
RUNNING = "7020"  # the product id of a Jetson that has started normally
# --storage -> partition of the root file system, as the flashing scripts expect it.
STORAGES = {"sd": "mmcblk0p1", "emmc": "mmcblk0p1", "nvme": "nvme0n1p1", "usb": "sda1"}


@dataclass(frozen=True)
class Tree:
    """A Linux_for_Tegra folder that is ready to flash.

    release: of L4T, such as (36, 4, 3). board: name of a .conf file in it.
    """

    folder: Path
    release: tuple[int, ...]
    board: str


def check_tree(folder: Path, board: str) -> Tree:
    """Check a Linux_for_Tegra folder. Raises TargetError for what is missing, with NVIDIA's step for it."""
    inner = folder / "Linux_for_Tegra"
    folder = (inner if inner.is_dir() else folder).resolve()
    for name in ("flash.sh", "bootloader", "kernel", "rootfs"):
        if not (folder / name).exists():
            raise TargetError(
                f"{folder}: expected NVIDIA's Linux_for_Tegra folder, but {name} is missing; "
                "unpack Jetson_Linux_R*_aarch64.tbz2 and give the folder"
            )
    if not (folder / "rootfs/usr/bin").is_dir():
        raise TargetError(
            f"{folder}/rootfs: is empty; "
            "unpack Tegra_Linux_Sample-Root-Filesystem_R*_aarch64.tbz2 there with sudo tar"
        )
    # apply_binaries.sh puts this file into the root file system, with the drivers.
    version = folder / "rootfs/etc/nv_tegra_release"
    if not version.is_file():
        raise TargetError(
            f"{folder}/rootfs: NVIDIA's drivers are not in it; run sudo ./apply_binaries.sh in {folder}"
        )
    match = re.search(r"#\s*R(\d+) \(release\), REVISION: ([\d.]+)", version.read_text(errors="replace"))
    if not match:
        raise TargetError(
            f"{version}: expected '# R36 (release), REVISION: 4.3, ...'; apply the binaries again"
        )
    if not (folder / f"{board}.conf").is_file():
        there = sorted(path.stem for path in folder.glob("*.conf"))
        raise TargetError(f"{folder}: has no board {board}; it has {', '.join(there) or 'none at all'}")
    return Tree(folder, tuple(int(part) for part in f"{match[1]}.{match[2]}".split(".")), board)


def find_module(board: str, root: Path = Path("/")) -> Module:
    """The Jetson in recovery mode on USB. root: contains sys.

    Raises TargetError if there is none or more than one, or if it does not fit the configuration `board`.
    """
    found = []
    running = False
    for device in sorted((root / "sys/bus/usb/devices").glob("*")):
        vendor, product = (text_of(device / name).lower() for name in ("idVendor", "idProduct"))
        if vendor == _NVIDIA:
            running |= product == RUNNING
            found += [RECOVERY[product]] if product in RECOVERY else []
    if not found:
        seen = "one that has started normally is" if running else "none is"
        raise TargetError(
            f"expected a Jetson in recovery mode on USB, {seen} there; hold its recovery button "
            "(or bridge FC REC and GND) while you give it power, then look for 0955:7xxx in lsusb"
        )
    if len(found) > 1:
        names = ", ".join(module.name for module in found)
        raise TargetError(
            f"expected one Jetson in recovery mode, got {len(found)} ({names}); unplug the others"
        )
    known = {config for module in RECOVERY.values() for config in module.configs}
    # Carrier boards of other makers have names of their own, which say nothing about the module.
    if board.startswith(tuple(known)) and not board.startswith(found[0].configs):
        raise TargetError(
            f"the Jetson in recovery mode is {found[0].name}, for which {board} is not; see its .conf files"
        )
    return found[0]


def command(tree: Tree, module: Module, storage: str) -> list[str]:
    """NVIDIA's command for this tree, module and storage, to be run in the tree.

    Raises TargetError for what NVIDIA's tools cannot do.
    """
    # 1. What is impossible: their tools would fail late, after the boot loader is gone.
    if module.soc != "t234" and storage in ("nvme", "usb"):
        raise TargetError(
            f"{module.name}: the root file system can be flashed to sd or emmc, not to {storage}"
        )
    if module.soc == "t210" and tree.release[0] > 32:
        raise TargetError(f"{module.name}: needs L4T 32 (JetPack 4), this tree is {_release(tree)}")
    if module.soc == "t234" and tree.release[0] < 35:
        raise TargetError(
            f"{module.name}: needs L4T 35 or later (JetPack 5, 6), this tree is {_release(tree)}"
        )
    has_emmc = module.name.startswith(("AGX", "TX2"))
    if storage == "emmc" and module.soc == "t234" and not has_emmc:
        raise TargetError(f"{module.name}: has no eMMC; use sd, nvme or usb")
    # 2. Inside the module: flash.sh, which from L4T 35 on has the name "internal" for it.
    if module.soc != "t234" or storage == "emmc":
        return ["sudo", "./flash.sh", tree.board, "internal" if tree.release[0] >= 35 else STORAGES[storage]]
    # 3. External storage of an Orin: its boot loader starts a small Linux (initrd), which writes the storage.
    layout = _first(
        tree, ("tools/kernel_flash/flash_l4t_t234_nvme.xml", "tools/kernel_flash/flash_l4t_external.xml")
    )
    tool = "tools/kernel_flash/l4t_initrd_flash.sh"
    parts = ["sudo", f"./{tool}", "--external-device", STORAGES[storage], "-c", layout]
    if not has_emmc:  # the boot loader is in a QSPI flash, with a layout of its own
        cfg = ("bootloader/generic/cfg/flash_t234_qspi.xml", "bootloader/t186ref/cfg/flash_t234_qspi.xml")
        parts += ["-p", f"-c {_first(tree, cfg)}"]
    _first(tree, (tool,))
    return [*parts, "--showlogs", "--network", "usb0", tree.board, "external" if has_emmc else "internal"]


def execute(tree: Tree, parts: list[str]) -> None:
    """Run NVIDIA's command in the tree, with its output on the terminal. Raises TargetError if it fails."""
    done = subprocess.run(parts, cwd=tree.folder, check=False)
    if done.returncode:
        raise TargetError(f"{parts[1]} ended with {done.returncode}; its own messages above say why")


def _first(tree: Tree, names: tuple[str, ...]) -> str:
    """The first of these files that exists: releases of L4T have them under other names."""
    for name in names:
        if (tree.folder / name).is_file():
            return name
    raise TargetError(f"{tree.folder}: {names[0]} is missing; unpack Jetson_Linux_R*_aarch64.tbz2 again")


def _release(tree: Tree) -> str:
    return ".".join(map(str, tree.release))
