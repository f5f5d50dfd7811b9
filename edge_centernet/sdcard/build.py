"""Make an SD card image that detects when it gets power: a base system, a bundle, and the owner's wishes.

Nothing is run from the base image, nothing is mounted, and root is not needed. The bundle, its installer and
the signers it trusts go onto the FAT partition, where any computer can replace them; the unit that starts it
goes into the root file system, so that tools which write their own cloud-init files (rpi-imager) cannot lose
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from edge_centernet.sdcard.filesystems import Ext4, Fat, make_fat, tool
from edge_centernet.sdcard.nocloud import Settings
from edge_centernet.sdcard.partitions import FAT, SECTOR, Partition

FOLDER = "edge-centernet"  # on the FAT partition
UNIT = "edge-centernet-firstboot.service"
EPOCH = 1767225600  # 2026-01-01, the time of our files where SOURCE_DATE_EPOCH is not set
_SPARE = (
    16 << 20
)  # bytes that stay free on the FAT partition; the board's own updates of kernel and firmware need some
_ALIGN = 4 << 20
_MACHINES = {"aarch64": 183, "armv7l": 40, "x86_64": 62}  # e_machine of ELF
# rpi-imager's tags for boards, and how it calls them.
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
{prepare}ExecStart=/usr/bin/python3 {boot}/{folder}/agent.py setup {boot}/{folder}/bundle.tar \
--pin {boot}/{folder}/signers --camera camera
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""
_CAMERA = (
    "ExecStartPre=/bin/sh -c 'mkdir -p /etc/edge-centernet && "
    "{{ test -e /etc/edge-centernet/camera.toml || "
    "install -m 644 {boot}/{folder}/camera.toml /etc/edge-centernet/; }}'\n"
)
_RADIO = "ExecStartPre=-/usr/sbin/rfkill unblock wifi\n"


@dataclass(frozen=True)
class Order:
    """What to make. signers: text of OpenSSH's allowed_signers; camera: a camera.toml's content, b"" for the bundle's.

    expand: bytes the image has at least, 0 for those of the base. url: where the files will be, for
      rpi-imager.
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
    """A base image that was unpacked, and what is in it. boot: where the FAT partition is mounted."""

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

    All are there or none. Raises ConfigError for what does not fit together, DiskImageError for a base that
    cannot be used, MissingDependency for a program that is not installed.
    """
    for name in ("mcopy", "debugfs", "xz"):
        tool(name)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))
    manifest = _check_bundle(order)
    name = "-".join(filter(None, ["edge-centernet", order.target.name, order.settings.hostname]))
    with _work_folder(out, name) as work:
        image = work / f"{name}.img"
        _unpack(order, image, progress)
        base = open_base(image, epoch)
        _check_fits(base, manifest, order)
        base = _make_room(base, order, epoch, say)
        install(base, order)
        base.root.check()
        if order.expand > image.stat().st_size:
            os.truncate(image, order.expand - order.expand % SECTOR)
        made = _pack(image, base, progress)
        entry = _os_list(order, manifest, base, made, out, epoch)
        (work / f"{name}.json").write_text(json.dumps(entry, indent=1) + "\n")
        return _move(work, out, name, order.settings.secret)


def _check_bundle(order: Order) -> dict[str, Any]:
    """Its manifest. Raises ConfigError unless the board would take it: signature, hashes, kind, target."""
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


@contextmanager
def _work_folder(out: Path, name: str) -> Iterator[Path]:
    """A folder beside the results, for one run alone, gone afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack(order: Order, image: Path, progress: Progress) -> None:
    """Check the base and write it, unpacked and sparse."""
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
    """Find the two partitions of an unpacked base image, and look what system it is. Raises DiskImageError."""
    boot, root = _two_partitions(image, diskimage.partitions_of(image))
    ext4 = Ext4(image, root.start, epoch)
    ext4.must_be_clean()
    if not ext4.exists("/etc/fstab") or not ext4.names("/etc/systemd/system"):
        raise DiskImageError(
            f"{image.name}: expected a Debian with systemd in its second partition, found another system"
        )
    return Base(
        image,
        Fat(image, boot.start, epoch),
        ext4,
        _boot_folder(ext4),
        ext4.exists("/usr/bin/cloud-init"),
        ext4.exists("/etc/rpi-issue"),
    )


def _two_partitions(image: Path, partitions: Sequence[Partition]) -> tuple[Partition, Partition]:
    """(FAT, root)."""
    if len(partitions) < 2 or partitions[0].kind not in FAT or partitions[1].kind != "Linux":
        found = ", ".join(part.kind for part in partitions)
        raise DiskImageError(
            f"{image.name}: expected a FAT partition and then a Linux one, as Raspberry Pi OS has them, got {found}"
        )
    return partitions[0], partitions[1]


def _boot_folder(root: Ext4) -> str:
    """Where the FAT partition is mounted, by /etc/fstab."""
    for line in (root.read("/etc/fstab") or b"").decode(errors="replace").splitlines():
        fields = line.split()
        if (
            len(fields) > 2
            and not line.startswith("#")
            and fields[2] == "vfat"
            and fields[1].startswith("/boot")
        ):
            return fields[1]
    raise DiskImageError(
        "base: its /etc/fstab mounts no FAT partition below /boot, where the bundle would be found"
    )


def _check_fits(base: Base, manifest: dict[str, Any], order: Order) -> None:
    """Processor and Python of the base must be the bundle's. Raises ConfigError with the way out."""
    python = f"/usr/bin/python{manifest['python']}"
    program = base.root.read(python)
    if program is None:
        there = [
            name for name in base.root.names("/usr/bin") if name.startswith("python3.") and name[8:].isdigit()
        ]
        advice = f"make the bundle with --python {there[0][6:]}" if there else "install python3 in the base"
        raise ConfigError(
            f"{order.base}: has {', '.join(there) or 'no Python'}, the bundle is for {manifest['python']}; {advice}"
        )
    machine = struct.unpack_from("<H", program, 18)[0]
    if machine != _MACHINES[manifest["machine"]]:
        has = next(
            (name for name, number in _MACHINES.items() if number == machine), f"ELF machine {machine}"
        )
        raise ConfigError(
            f"{order.base}: is a system for {has}, the bundle ({order.target.name}) is for {manifest['machine']}"
        )
    zone = order.settings.timezone
    if (
        zone
        and base.root.names("/usr/share/zoneinfo")
        and not base.root.exists(f"/usr/share/zoneinfo/{zone}")
    ):
        raise ConfigError(f"--timezone: the base knows no {zone}")


def _make_room(base: Base, order: Order, epoch: int, say: Say) -> Base:
    """The base, with a FAT partition that the bundle fits into; the root partition moves up if it must."""
    need = order.bundle.stat().st_size + _SPARE
    if base.fat.free >= need:
        return base
    more = -(-(need - base.fat.free + (need >> 8)) // _ALIGN) * _ALIGN  # a larger FAT has a larger table
    say(
        f"The FAT partition grows by {more / 1e6:.0f} MB: the bundle does not fit into {base.fat.free / 1e6:.0f} MB."
    )
    grow_fat(base.image, more, epoch)
    return open_base(base.image, epoch)


def grow_fat(image: Path, more: int, epoch: int) -> None:
    """Make the first partition `more` bytes larger and move the second up; files, label, serial and disk id stay.

    more: a multiple of 4 MiB. Raises DiskImageError for another partition table than an MBR with these two.
    """
    partitions = diskimage.partitions_of(image)
    boot, root = _two_partitions(image, partitions)
    with image.open("rb") as file:
        head = bytearray(file.read(SECTOR))
    if len(partitions) != 2 or head[450] == 0xEE or boot.start + boot.size > root.start:
        raise DiskImageError(
            f"{image.name}: its FAT partition is too small for the bundle and cannot be made larger"
        )
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
            target.seek(0)
            target.write(head)
        make_fat(grown, boot.start, boot.size + more, old.label, old.serial, epoch).fill(Path(folder))
    os.replace(grown, image)


def _copy_sparse(source: Any, target: Any, start: int, to: int, size: int) -> None:
    """Copy bytes between files at these places; blocks of zeros are left out, as `target` is made of them."""
    source.seek(start)
    for position in range(0, size, 1 << 20):
        chunk = source.read(min(1 << 20, size - position))
        if chunk.strip(b"\0"):
            target.seek(to + position)
            target.write(chunk)


# What goes in


def install(base: Base, order: Order) -> None:
    """Bundle, agent, signers, camera and settings into the base."""
    fat = base.fat
    fat.folder(FOLDER)
    fat.copy(f"{FOLDER}/bundle.tar", order.bundle)
    fat.copy(f"{FOLDER}/agent.py", Path(agent.__file__))
    fat.write(f"{FOLDER}/signers", order.signers.encode())
    if order.camera:
        fat.write(f"{FOLDER}/camera.toml", order.camera)
    prepare = _CAMERA.format(boot=base.boot, folder=FOLDER) if order.camera else ""
    if order.settings.wifi and base.raspberry_pi_os:
        prepare += _RADIO
    folder = "/etc/systemd/system"
    base.root.folder(f"{folder}/multi-user.target.wants")
    unit = _UNIT.format(boot=base.boot, folder=FOLDER, prepare=prepare)
    base.root.write(f"{folder}/{UNIT}", unit.encode())
    base.root.link(f"{folder}/multi-user.target.wants/{UNIT}", f"{folder}/{UNIT}")
    if base.raspberry_pi_os and order.settings.user:
        fat.write("ssh", b"")  # its sshd is off without
    (_with_cloud_init if base.cloud_init else _without_cloud_init)(base, order.settings)


def _with_cloud_init(base: Base, settings: Settings) -> None:
    """The three files of NoCloud on the FAT partition, and the place to look for them where the base has none."""
    user = nocloud.user_data(settings)
    network = nocloud.network_config(settings, base.raspberry_pi_os)
    base.fat.write("user-data", user.encode())
    base.fat.write("network-config", network.encode())
    base.fat.write("meta-data", nocloud.meta_data(user, network).encode())
    folder = "/etc/cloud/cloud.cfg.d"
    told = [base.root.read(f"{folder}/{name}") or b"" for name in base.root.names(folder)]
    if not any(b"NoCloud" in text and (b"fs_label" in text or b"seedfrom" in text) for text in told):
        source = {
            "datasource_list": ["NoCloud", "None"],
            "datasource": {"NoCloud": {"fs_label": base.fat.label}},
        }
        base.root.folder(folder)
        base.root.write(f"{folder}/99_edge_centernet.cfg", nocloud.to_yaml(source).encode())


def _without_cloud_init(base: Base, settings: Settings) -> None:
    """Raspberry Pi OS Bookworm and older: its own files on the FAT partition, the rest into the root file system."""
    fat, root = base.fat, base.root
    if settings != Settings() and not base.raspberry_pi_os:
        raise DiskImageError(
            "base: has no cloud-init and is no Raspberry Pi OS: user, network and name cannot be set in it"
        )
    if settings.user:
        # Without a password nobody can log in by one: "*" is no hash of anything.
        fat.write("userconf.txt", f"{settings.user}:{settings.password or '*'}\n".encode())
        if settings.ssh_keys:  # the user pi is renamed at the first start, and the home folder with it
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
    """packed: the .img.xz; content, file: SHA-256 of the image and of the packed file; size: bytes of the image."""

    packed: Path
    content: str
    file: str
    size: int


def _pack(image: Path, base: Base, progress: Progress) -> _Made:
    """Write block map, .img.xz and .sha256 beside the image."""
    free = sorted(
        [*base.fat.free_ranges(), *base.root.free_ranges(), (_used_end(image), image.stat().st_size)]
    )
    image.with_name(f"{image.name}.bmap").write_text(bmap.to_xml(bmap.of_image(image, free)))
    packed = image.with_name(f"{image.name}.xz")
    content, done, size = hashlib.sha256(), 0, image.stat().st_size
    # Blocks of a fixed size: the bytes do not depend on the number of threads that pack them. Level 1: three
    # times the speed of level 3 for 4 % more bytes; most of a bundle is packed already.
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
            pass
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


def _used_end(image: Path) -> int:
    """First byte behind the last partition."""
    return max(part.start + part.size for part in diskimage.partitions_of(image))


def _os_list(
    order: Order, manifest: dict[str, Any], base: Base, made: _Made, out: Path, epoch: int
) -> dict[str, Any]:
    """What `rpi-imager --repo NAME.json` reads: one system, and the board it is for."""
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
        "init_format": _init_format(base),
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


def _init_format(base: Base) -> str:
    """How rpi-imager may still change name, user and network of this image."""
    if base.raspberry_pi_os:
        return "cloudinit-rpi" if base.cloud_init else "systemd"
    return "cloudinit" if base.cloud_init else "none"


def _move(work: Path, out: Path, name: str, secret: bool) -> list[Path]:
    """All four files to their place, the image last."""
    names = [f"{name}.json", f"{name}.img.bmap", f"{name}.img.xz.sha256", f"{name}.img.xz"]
    for file in names:
        path = work / file
        path.chmod(0o600 if secret and file.endswith(".xz") else 0o644)
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
        os.replace(path, out / file)
    return [out / file for file in reversed(names)]
