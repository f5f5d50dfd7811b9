"""Build an SD card image that detects as soon as the board has power: a base system, a bundle and settings.

Nothing of the base image is run, nothing is mounted, and root is not needed. The bundle, its installer and
the trusted signers go onto the FAT partition, where any computer can replace them. The unit that starts the
installer goes into the root file system, because tools such as rpi-imager replace the cloud-init files on the
FAT partition with their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_centernet import __version__
from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import Target
from edge_centernet.errors import ConfigError, DiskImageError
from edge_centernet.files import sha256
from edge_centernet.progress import Progress, Say, unseen
from edge_centernet.sdcard import bmap, diskimage, nocloud
from edge_centernet.sdcard.diskimage import FAT, SECTOR, Partition
from edge_centernet.sdcard.filesystems import Ext4, Fat, make_fat, tool
from edge_centernet.sdcard.nocloud import Settings

FOLDER = "edge-centernet"  # on the FAT partition
UNIT = "edge-centernet-firstboot.service"
EPOCH = 1767225600  # 2026-01-01, the time of our files unless SOURCE_DATE_EPOCH is set
# Bytes that stay free on the FAT partition, for updates of kernel and firmware on the board.
_SPARE = 16 << 20
_ALIGN = 4 << 20  # bytes; partitions begin at multiples of a card's erase block
_MACHINES = {"aarch64": 183, "armv7l": 40, "x86_64": 62}  # e_machine in the header of an ELF file
# rpi-imager's tag and name of each board.
_BOARDS = {
    "pi5": ("pi5-64bit", "Raspberry Pi 5"),
    "pi4": ("pi4-64bit", "Raspberry Pi 4"),
    "pi3": ("pi3-64bit", "Raspberry Pi 3"),
    "pizero2": ("pi3-64bit", "Raspberry Pi Zero 2 W"),
}

_UNIT = """\
[Unit]
Description=Set up edge-centernet from the boot partition
ConditionPathExists=!/opt/edge-centernet/current
RequiresMountsFor={boot}
# After the root file system was grown to the card.
# A board that lost power in here tries again at its next start.
After=cloud-init.service cloud-init-network.service systemd-growfs-root.service resize2fs_once.service

[Service]
# Not oneshot: the rest of the board need not wait the minutes that this takes.
Type=exec
{prepare}ExecStart=/usr/bin/python3 -I {boot}/{folder}/agent.py setup {boot}/{folder}/bundle.tar \
--pin {boot}/{folder}/signers --camera camera
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""
# A camera.toml on the board is kept: its owner may have changed it since the card was written.
_CAMERA = (
    "ExecStartPre=/bin/sh -c 'mkdir -p /etc/edge-centernet && "
    "{{ test -e /etc/edge-centernet/camera.toml || "
    "install -m 644 {boot}/{folder}/camera.toml /etc/edge-centernet/; }}'\n"
)
# Raspberry Pi OS blocks the radio until a country is set; "-": a board without a radio goes on.
_RADIO = "ExecStartPre=-/usr/sbin/rfkill unblock wifi\n"


@dataclass(frozen=True)
class Order:
    """What to build.

    signers: text of OpenSSH's allowed_signers.
    camera: content of a camera.toml, b"" for the one in the bundle.
    expand: bytes that the image has at least, 0 for those of the base.
    url: of the folder where the files will be published, for rpi-imager; "" for where they are made.
    """

    target: Target
    base: Path
    bundle: Path
    signers: str
    settings: Settings = field(default_factory=Settings)
    camera: bytes = b""
    expand: int = 0
    url: str = ""


@dataclass(frozen=True)
class Base:
    """An unpacked base image and what is in it. boot: where the system mounts its FAT partition."""

    image: Path
    fat: Fat
    root: Ext4
    boot: str
    cloud_init: bool
    raspberry_pi_os: bool


def make_image(
    order: Order, out: Path, progress: Progress = unseen, say: Say = lambda line: None
) -> list[Path]:
    """Make NAME.img.xz, NAME.img.bmap, NAME.img.xz.sha256 and NAME.json in `out`; returns their paths.

    All four are made or none. Raises ConfigError for what does not fit together, DiskImageError for a base
    that cannot be used, and MissingDependency for a program that is not installed.
    """
    # 1. Everything that can be wrong and is quick to find, before gigabytes are unpacked.
    for name in ("mcopy", "debugfs", "xz"):
        tool(name)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))
    manifest = _check_bundle(order)
    name = "-".join(filter(None, ["edge-centernet", order.target.name, order.settings.hostname]))
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))  # beside the results, to rename them
    try:
        # 2. The base, unpacked. What does not fit the bundle is refused before the image is changed.
        image = work / f"{name}.img"
        _unpack(order, image, progress)
        base = open_base(image, epoch)
        _check_fits(base, manifest, order)
        # 3. Room on the FAT partition first: it moves the root partition, in which later steps write.
        base = _make_room(base, order, epoch, say)
        # 4. Bundle and settings, then e2fsck: debugfs writes without the checks of a mounted file system.
        install(base, order)
        base.root.check()
        if order.expand > image.stat().st_size:
            os.truncate(image, order.expand - order.expand % SECTOR)
        # 5. Block map and checksums, of the image as it is now.
        made = _pack(image, base, progress)
        entry = _os_list(order, manifest, base, made, out, epoch)
        (work / f"{name}.json").write_text(json.dumps(entry, indent=1) + "\n")
        # 6. To their place, the image last: whoever finds it finds its block map and checksum too.
        names = [f"{name}.json", f"{name}.img.bmap", f"{name}.img.xz.sha256", f"{name}.img.xz"]
        for file in names:
            path = work / file
            private = order.settings.secret or not order.base.stat().st_mode & 0o004
            path.chmod(0o600 if private and file.endswith(".xz") else 0o644)
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
            os.replace(path, out / file)
        return [out / file for file in reversed(names)]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_bundle(order: Order) -> dict[str, Any]:
    """The bundle's manifest. Raises ConfigError for a bundle that the board would refuse."""
    with tempfile.NamedTemporaryFile("w", suffix=".signers") as signers:
        signers.write(order.signers)
        signers.flush()
        try:
            manifest = agent.verify(order.bundle, Path(signers.name))
        except agent.Refused as error:
            raise ConfigError(f"{order.bundle}: {str(error).replace(signers.name, '--signers')}") from error
    if manifest["kind"] != "full":
        raise ConfigError(
            f"{order.bundle}: has the model only, a new board needs all; make it without --model-only"
        )
    if manifest["target"] != order.target.name:
        raise ConfigError(
            f"{order.bundle}: is for {manifest['target']}, the image is for {order.target.name}"
        )
    return manifest


def _unpack(order: Order, image: Path, progress: Progress) -> None:
    """Check the base, then unpack it to `image`, with holes where it has zeros."""
    free = shutil.disk_usage(image.parent).free
    checked = diskimage.check(order.base, size_max=free, progress=progress)
    with image.open("wb") as file, diskimage.opened(order.base) as (stream, _):
        for chunk in diskimage.chunks(stream):
            for start in range(0, len(chunk), bmap.BLOCK * 16):
                part = chunk[start : start + bmap.BLOCK * 16]
                if part.strip(b"\0"):
                    file.write(part)
                else:
                    file.seek(len(part), os.SEEK_CUR)
        file.truncate(checked.size)


# The base


def open_base(image: Path, epoch: int) -> Base:
    """Find the two partitions of an unpacked base image and which system it is. Raises DiskImageError."""
    boot, root = _two_partitions(image, diskimage.partitions_of(image))
    ext4 = Ext4(image, root.start, epoch)
    ext4.must_be_clean()
    if not ext4.exists("/etc/fstab") or not ext4.names("/etc/systemd/system"):
        raise DiskImageError(
            f"{image.name}: expected a Debian with systemd in its second partition, found another system"
        )
    # Where the FAT partition is mounted: /boot/firmware, or /boot in older systems.
    lines = (ext4.read("/etc/fstab") or b"").decode(errors="replace").splitlines()
    entries = [line.split() for line in lines if not line.startswith("#")]
    mounts = [
        fields[1]
        for fields in entries
        if len(fields) > 2 and fields[2] == "vfat" and fields[1].startswith("/boot")
    ]
    if not mounts:
        raise DiskImageError(
            "base: its /etc/fstab mounts no FAT partition below /boot, where the bundle would be found"
        )
    return Base(
        image,
        Fat(image, boot.start, epoch),
        ext4,
        mounts[0],
        ext4.exists("/usr/bin/cloud-init"),
        ext4.exists("/etc/rpi-issue"),
    )


def _two_partitions(image: Path, partitions: Sequence[Partition]) -> tuple[Partition, Partition]:
    """The FAT partition and the root partition. Raises DiskImageError for another layout."""
    if len(partitions) < 2 or partitions[0].kind not in FAT or partitions[1].kind != "Linux":
        found = ", ".join(part.kind for part in partitions)
        raise DiskImageError(
            f"{image.name}: expected a FAT partition and then a Linux one, as Raspberry Pi OS has them, "
            f"got {found}"
        )
    return partitions[0], partitions[1]


def _check_fits(base: Base, manifest: dict[str, Any], order: Order) -> None:
    """Raise ConfigError, with the way out, unless Python, processor and time zones of the base fit."""
    python = f"/usr/bin/python{manifest['python']}"
    program = base.root.read(python)
    if program is None:
        there = [
            name for name in base.root.names("/usr/bin") if name.startswith("python3.") and name[8:].isdigit()
        ]
        advice = f"make the bundle with --python {there[0][6:]}" if there else "install python3 in the base"
        raise ConfigError(
            f"{order.base}: has {', '.join(there) or 'no Python'}, the bundle is for {manifest['python']}; "
            f"{advice}"
        )
    machine = struct.unpack_from("<H", program, 18)[0]  # a kernel of 64 bits may run a system of 32
    if machine != _MACHINES[manifest["machine"]]:
        has = next(
            (name for name, number in _MACHINES.items() if number == machine), f"ELF machine {machine}"
        )
        raise ConfigError(
            f"{order.base}: is a system for {has}, "
            f"the bundle ({order.target.name}) is for {manifest['machine']}"
        )
    zone = order.settings.timezone
    if (
        zone
        and base.root.names("/usr/share/zoneinfo")
        and not base.root.exists(f"/usr/share/zoneinfo/{zone}")
    ):
        raise ConfigError(f"--timezone: the base knows no {zone}")


def _make_room(base: Base, order: Order, epoch: int, say: Say) -> Base:
    """The base with room for the bundle on its FAT partition, which grows if it must."""
    need = order.bundle.stat().st_size + _SPARE
    if base.fat.free >= need:
        return base
    more = -(-(need - base.fat.free + (need >> 8)) // _ALIGN) * _ALIGN  # a larger FAT has a larger table
    say(
        f"The FAT partition grows by {more / 1e6:.0f} MB: "
        f"the bundle does not fit into {base.fat.free / 1e6:.0f} MB."
    )
    grow_fat(base.image, more, epoch)
    return open_base(base.image, epoch)


def grow_fat(image: Path, more: int, epoch: int) -> None:
    """Make the first partition `more` bytes larger and move the second up by as much.

    Files, label, serial and disk id stay. more: a multiple of 4 MiB. Raises DiskImageError for another
    partition table than an MBR with these two.
    """
    partitions = diskimage.partitions_of(image)
    boot, root = _two_partitions(image, partitions)
    with image.open("rb") as file:
        head = bytearray(file.read(SECTOR))
    if len(partitions) != 2 or head[450] == 0xEE or boot.start + boot.size > root.start:
        raise DiskImageError(
            f"{image.name}: its FAT partition is too small for the bundle and cannot be made larger"
        )
    # mtools cannot make a FAT larger, so its files go into a new one. The root partition is copied into a new
    # image, because moving it in place would leave half of it behind after an error.
    old = Fat(image, boot.start, epoch)
    grown = image.with_name(image.name + ".grown")
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        old.unpack(Path(folder))
        struct.pack_into("<I", head, 446 + 12, (boot.size + more) // SECTOR)
        struct.pack_into("<I", head, 462 + 8, (root.start + more) // SECTOR)
        with image.open("rb") as source, grown.open("wb") as target:
            target.truncate(image.stat().st_size + more)
            _copy_sparse(source, target, 0, 0, boot.start)
            _copy_sparse(source, target, root.start, root.start + more, image.stat().st_size - root.start)
            # The disk id within the first sector stays: PARTUUID is made of it, and /etc/fstab uses that.
            target.seek(0)
            target.write(head)
        make_fat(grown, boot.start, boot.size + more, old.label, old.serial, epoch).fill(Path(folder))
    os.replace(grown, image)


def _copy_sparse(source: Any, target: Any, start: int, to: int, size: int) -> None:
    """Copy `size` bytes from `start` to `to`, without blocks of zeros, which `target` has already.

    Args:
        source: a binary file.
        target: another one, which is zero where nothing has been written.
        start: first byte in `source`.
        to: first byte in `target`.
        size: number of bytes.
    """
    source.seek(start)
    for position in range(0, size, 1 << 20):
        chunk = source.read(min(1 << 20, size - position))
        if chunk.strip(b"\0"):
            target.seek(to + position)
            target.write(chunk)


# What goes in


def install(base: Base, order: Order) -> None:
    """Write bundle, agent, signers, camera, settings and the unit of the first boot into the base."""
    # 1. What the unit needs, onto the FAT partition.
    fat = base.fat
    fat.folder(FOLDER)
    fat.copy(f"{FOLDER}/bundle.tar", order.bundle)
    fat.copy(f"{FOLDER}/agent.py", Path(agent.__file__))
    fat.write(f"{FOLDER}/signers", order.signers.encode())
    if order.camera:
        fat.write(f"{FOLDER}/camera.toml", order.camera)
    # 2. The unit, enabled by the link that `systemctl enable` would make.
    prepare = _CAMERA.format(boot=base.boot, folder=FOLDER) if order.camera else ""
    if order.settings.wifi and base.raspberry_pi_os:
        prepare += _RADIO
    folder = "/etc/systemd/system"
    base.root.folder(f"{folder}/multi-user.target.wants")
    unit = _UNIT.format(boot=base.boot, folder=FOLDER, prepare=prepare)
    base.root.write(f"{folder}/{UNIT}", unit.encode())
    base.root.link(f"{folder}/multi-user.target.wants/{UNIT}", f"{folder}/{UNIT}")
    # 3. The settings.
    if base.raspberry_pi_os and order.settings.user:
        fat.write("ssh", b"")  # without this file its sshd stays off
    if not base.cloud_init:
        _without_cloud_init(base, order.settings)
        return
    user = nocloud.user_data(order.settings)
    network = nocloud.network_config(order.settings, base.raspberry_pi_os)
    fat.write("user-data", user.encode())
    fat.write("network-config", network.encode())
    fat.write("meta-data", nocloud.meta_data(user, network).encode())
    # A Raspberry Pi OS looks for these files on its FAT partition; the cloud-init of another base may not.
    folder = "/etc/cloud/cloud.cfg.d"
    configured = [base.root.read(f"{folder}/{name}") or b"" for name in base.root.names(folder)]
    if not any(b"NoCloud" in text and (b"fs_label" in text or b"seedfrom" in text) for text in configured):
        source = {
            "datasource_list": ["NoCloud", "None"],
            "datasource": {"NoCloud": {"fs_label": base.fat.label}},
        }
        base.root.folder(folder)
        base.root.write(f"{folder}/99_edge_centernet.cfg", nocloud.to_yaml(source).encode())


def _without_cloud_init(base: Base, settings: Settings) -> None:
    """Write the settings as Raspberry Pi OS Bookworm and older reads them.

    User and ssh are files of its own on the FAT partition, the rest goes into the root file system. Raises
    DiskImageError for another system without cloud-init.
    """
    fat, root = base.fat, base.root
    if settings != Settings() and not base.raspberry_pi_os:
        raise DiskImageError(
            "base: has no cloud-init and is no Raspberry Pi OS: user, network and name cannot be set in it"
        )
    if settings.user:
        # "*" is the hash of no password: without one, nobody can log in by password.
        fat.write("userconf.txt", f"{settings.user}:{settings.password or '*'}\n".encode())
        if settings.ssh_keys:
            # At its first start the system renames the user pi (1000), and the home folder with it.
            root.folder("/home/pi/.ssh", 0o700, 1000)
            root.write(
                "/home/pi/.ssh/authorized_keys", "\n".join((*settings.ssh_keys, "")).encode(), 0o600, 1000
            )
        if not settings.password:
            root.write(
                "/etc/sudoers.d/010_edge_centernet",
                f"{settings.user} ALL=(ALL) NOPASSWD:ALL\n".encode(),
                0o440,
            )
    if settings.hostname:
        hosts = (root.read("/etc/hosts") or b"").decode()
        lines = [line for line in hosts.splitlines() if not line.startswith("127.0.1.1")]
        root.write("/etc/hostname", f"{settings.hostname}\n".encode())
        root.write("/etc/hosts", "\n".join((*lines, f"127.0.1.1\t{settings.hostname}", "")).encode())
    if settings.timezone:
        root.write("/etc/timezone", f"{settings.timezone}\n".encode())
        root.link("/etc/localtime", f"/usr/share/zoneinfo/{settings.timezone}")
    if settings.wifi:
        folder = "/etc/NetworkManager/system-connections"
        root.folder(folder)
        root.write(
            f"{folder}/preconfigured.nmconnection", nocloud.network_manager(settings.wifi).encode(), 0o600
        )
        old = (fat.read("cmdline.txt") or b"").decode()
        fat.write("cmdline.txt", nocloud.command_line(old, settings.wifi).encode())


# What comes out


@dataclass(frozen=True)
class _Made:
    """A packed image.

    packed: the .img.xz. content: SHA-256 of the image; file: that of the .img.xz. size: bytes of the image.
    """

    packed: Path
    content: str
    file: str
    size: int


def _pack(image: Path, base: Base, progress: Progress) -> _Made:
    """Write block map, .img.xz and .sha256 beside the image."""
    # What is behind the last partition is free too; --expand adds it.
    used_end = max(part.start + part.size for part in diskimage.partitions_of(image))
    free = sorted([*base.fat.free_ranges(), *base.root.free_ranges(), (used_end, image.stat().st_size)])
    image.with_name(f"{image.name}.bmap").write_text(bmap.to_xml(bmap.of_image(image, free)))
    packed = image.with_name(f"{image.name}.xz")
    content, done, size = hashlib.sha256(), 0, image.stat().st_size
    # Blocks of a fixed size, so that the bytes do not depend on the number of threads. Level 1 is three times
    # as fast as level 3 for 4 % more bytes, because most of a bundle is compressed already.
    command = [tool("xz"), "-1", "-T2", "--block-size=16MiB", "-c"]
    with image.open("rb") as source, packed.open("wb") as target:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=target, env={**os.environ, "XZ_OPT": ""}
        )
        assert process.stdin is not None
        try:
            while chunk := source.read(diskimage.CHUNK):
                content.update(chunk)
                process.stdin.write(chunk)
                done += len(chunk)
                progress("Packing", done, size)
            process.stdin.close()
        except BrokenPipeError:
            pass  # xz has ended early; its exit status says so below
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode:
            raise DiskImageError(f"xz ended with {process.returncode}; is {packed.parent.parent} full?")
    digest = sha256(packed)
    packed.with_name(f"{packed.name}.sha256").write_text(f"{digest}  {packed.name}\n")
    return _Made(packed, content.hexdigest(), digest, size)


def _os_list(
    order: Order, manifest: dict[str, Any], base: Base, made: _Made, out: Path, epoch: int
) -> dict[str, Any]:
    """What `rpi-imager --repo NAME.json` reads: one system, and the board that it is for."""
    # init_format: by which files rpi-imager may still change name, user and network in this image.
    if base.raspberry_pi_os:
        init_format = "cloudinit-rpi" if base.cloud_init else "systemd"
    else:
        init_format = "cloudinit" if base.cloud_init else "none"
    name = f"edge-centernet {__version__} ({order.target.name})"
    prefix = order.url.rstrip("/") or out.resolve().as_uri()
    entry: dict[str, Any] = {
        "name": name,
        "description": f"Object detection that starts with the board: {manifest['model']['name']}",
        "icon": "icons/use_custom.png",
        "url": f"{prefix}/{made.packed.name}",
        "extract_size": made.size,
        "extract_sha256": made.content,
        "image_download_size": made.packed.stat().st_size,
        "image_download_sha256": made.file,
        "release_date": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d"),
        "init_format": init_format,
    }
    if order.target.name not in _BOARDS:
        return {"os_list": [entry]}
    tag, board = _BOARDS[order.target.name]
    device = {
        "name": board,
        "tags": [tag],
        "default": True,
        "description": "",
        "icon": "",
        "matching_type": "exclusive",
    }
    return {"imager": {"devices": [device]}, "os_list": [{**entry, "devices": [tag]}]}
