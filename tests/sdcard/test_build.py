"""SD card images: what is in them, that they are whole, equal for equal inputs, and what is refused."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from disks import MIB, first_difference, partition_table
from sshd import new_key
from support import Result

from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import Target, find_target
from edge_centernet.deploy.signing import sign, signers_line
from edge_centernet.errors import ConfigError, DiskImageError
from edge_centernet.sdcard import diskimage
from edge_centernet.sdcard.build import EPOCH, FOLDER, UNIT, Order, grow_fat, install, make_image, open_base
from edge_centernet.sdcard.filesystems import Ext4, Fat
from edge_centernet.sdcard.nocloud import Settings, wifi

pytestmark = pytest.mark.slow  # builds whole card images

Run = Callable[..., Result]
START = 4 * MIB
PASSWORD, PASSPHRASE = "correct horse battery", "hunter2 hunter2"


@pytest.fixture(autouse=True, scope="module")
def _tools() -> None:
    missing = [name for name in ("mcopy", "mkfs.vfat", "mke2fs", "debugfs", "xz") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt install mtools dosfstools e2fsprogs xz-utils")


def elf(machine: int) -> bytes:
    """The begin of a program for that processor."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


def make_base(path: Path, fat_mb: int = 64, machine: int = 183, **more: str | None) -> Path:
    """A base image with the files that are read. more: further files of its root, None to leave one out."""
    tree = path.with_name(path.name + ".root")
    files: dict[str, str | bytes | None] = {
        "etc/fstab": (
            "PARTUUID=1-01  /boot/firmware  vfat  defaults  0  2\nPARTUUID=1-02  /  ext4  defaults  0  1\n"
        ),
        "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n",
        "etc/hostname": "raspberrypi\n",
        "etc/systemd/system/ssh.service": "[Unit]\n",
        "etc/cloud/cloud.cfg.d/99.cfg": (
            "datasource_list: [NoCloud]\ndatasource: {NoCloud: {fs_label: bootfs}}\n"
        ),
        "usr/bin/cloud-init": "#!/usr/bin/python3\n",
        "usr/bin/python3.11": elf(machine),
        "usr/share/zoneinfo/Europe/Berlin": "TZif2",
        **{name.replace("__", "/").replace("_DOT_", "."): text for name, text in more.items()},
    }
    for name, content in files.items():
        if content is not None:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content.encode() if isinstance(content, str) else content)
    root = path.with_name(path.name + ".ext4")
    with path.open("wb") as file:
        file.truncate(START + (fat_mb + 24) * MIB)
        file.write(
            partition_table(
                (0x0C, START // 512, fat_mb * 2048), (0x83, START // 512 + fat_mb * 2048, 24 * 2048)
            )
        )
        file.seek(440)
        file.write(b"\x78\x56\x34\x12")  # the disk id, which PARTUUID is made of
    fat = ["-F", "32", "-s", "1", "-n", "bootfs", "-i", "cafe1234", "--offset", str(START // 512)]
    subprocess.run(["mkfs.vfat", *fat, path, str(fat_mb * 1024)], check=True, capture_output=True)
    boot = Fat(path, START, 1_600_000_000)
    boot.folder("overlays")
    boot.write("overlays/A long name, with Capitals.dtbo", b"overlay" * 3000)
    boot.write("cmdline.txt", b"console=tty1 root=PARTUUID=12345678-02 rootwait\n")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", tree, root, "24m"], check=True)
    with path.open("r+b") as file:
        file.seek(START + fat_mb * MIB)
        file.write(root.read_bytes())
    root.unlink()
    shutil.rmtree(tree)
    return path


def make_bundle(path: Path, key: Path, size: int = 100_000, **manifest: Any) -> Path:
    """A signed bundle that boards would unpack; with noise instead of wheels."""
    record = {
        "schema": 1, "kind": "full", "version": "0.1.0", "target": "pi4", "machine": "aarch64",
        "python": "3.11", "glibc": [2, 28], "apt": [], "system_packages": True, "installed_bytes": size,
        "model": {"name": "centernet-mbv2-320", "file": "centernet-mbv2-320.tflite"}, **manifest,
    }  # fmt: skip
    files = {"manifest.json": json.dumps(record).encode(), "wheels/noise.whl": os.urandom(size)}
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    ).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in {"SHA256SUMS": sums, "SHA256SUMS.sig": sign(sums, key), **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with cloud-init."""
    return make_base(tmp_path_factory.mktemp("base") / "base.img")


@pytest.fixture(scope="module")
def bookworm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as Raspberry Pi OS Bookworm is: without cloud-init."""
    files: dict[str, str | None] = {
        "usr__bin__cloud-init": None,
        "etc__cloud__cloud_DOT_cfg_DOT_d__99_DOT_cfg": None,
    }
    files["etc__rpi-issue"] = "Raspberry Pi reference 2024-11-19\n"
    return make_base(tmp_path_factory.mktemp("bookworm") / "base.img", **files)


@pytest.fixture(scope="module")
def pi4(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for a Pi 4."""
    return make_bundle(tmp_path_factory.mktemp("pi4") / "pi4.tar", key)


def order(base: Path, bundle: Path, signers: Path, **more: Any) -> Order:
    """An order for a Pi 4."""
    return Order(find_target("pi4"), base, bundle, signers.read_text(), **more)


def unpacked(made: list[Path], folder: Path) -> tuple[Path, Fat, Ext4]:
    """(image, its FAT, its root file system)."""
    image = folder / "unpacked.img"
    image.write_bytes(lzma.decompress(made[0].read_bytes()))
    boot, root = diskimage.partitions_of(image)
    return image, Fat(image, boot.start, 0), Ext4(image, root.start, 0)


def test_command_makes_a_whole_image(base: Path, pi4: Path, signers: Path, tmp_path: Path, run: Run) -> None:
    """Bundle, agent, signers, camera and settings are where the board looks; the file systems are sound."""
    (tmp_path / "pw").write_text(PASSWORD + "\n")
    (tmp_path / "wpw").write_text(PASSPHRASE + "\n")
    (tmp_path / "camera.toml").write_text('camera = "/dev/video0"\nwait = true\n')
    key = new_key(tmp_path / "id").with_suffix(".pub")
    result = run(
        "image", "--target", "pi4", "--base", base, "--bundle", pi4, "--signers", signers, "--user", "anna",
        "--ssh-key", key, "--password-file", tmp_path / "pw", "--wifi", "Café",
        "--wifi-password-file", tmp_path / "wpw", "--wifi-country", "DE", "--hostname", "door",
        "--timezone", "Europe/Berlin", "--camera-config", tmp_path / "camera.toml", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0, result.err
    name = "edge-centernet-pi4-door"
    names = [f"{name}.img.bmap", f"{name}.img.xz", f"{name}.img.xz.sha256", f"{name}.json"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    image, fat, root = unpacked([tmp_path / "out" / f"{name}.img.xz"], tmp_path)
    assert first_difference(fat.read(f"{FOLDER}/bundle.tar"), pi4.read_bytes()) is None
    assert fat.read(f"{FOLDER}/agent.py") == Path(agent.__file__).read_bytes()
    assert fat.read(f"{FOLDER}/signers") == signers.read_bytes()
    assert fat.read(f"{FOLDER}/camera.toml") == (tmp_path / "camera.toml").read_bytes()
    assert fat.read("overlays/A long name, with Capitals.dtbo") == b"overlay" * 3000
    user = yaml.safe_load(fat.read("user-data") or b"")
    assert (user["hostname"], user["timezone"]) == ("door", "Europe/Berlin")
    assert user["users"][0]["ssh_authorized_keys"] == [key.read_text().strip()]
    network = yaml.safe_load(fat.read("network-config") or b"")["network"]
    assert (
        network["wifis"]["wlan0"]["access-points"]["Café"]["password"] == wifi("Café", PASSPHRASE, "DE").key
    )
    assert yaml.safe_load(fat.read("meta-data") or b"")["instance-id"].startswith("edge-centernet-")
    assert root.kind(f"/etc/systemd/system/multi-user.target.wants/{UNIT}") == "link"
    assert root.names("/etc/cloud/cloud.cfg.d") == ["99.cfg"]  # it knows where to look already
    root.check()
    for secret in (PASSWORD, PASSPHRASE):
        assert secret not in result.out + result.err
        assert secret.encode() not in image.read_bytes()
    assert stat.S_IMODE((tmp_path / "out" / f"{name}.img.xz").stat().st_mode) == 0o600


def test_sums_and_sizes_are_those_of_the_files(base: Path, pi4: Path, signers: Path, tmp_path: Path) -> None:
    """What sha256sum and rpi-imager read is true of the files."""
    made = make_image(order(base, pi4, signers, url="https://example.org/images/"), tmp_path / "out")
    subprocess.run(["sha256sum", "-c", "--quiet", made[1].name], cwd=tmp_path / "out", check=True)
    content = lzma.decompress(made[0].read_bytes())
    entry = json.loads((tmp_path / "out/edge-centernet-pi4.json").read_text())
    system = entry["os_list"][0]
    assert set(system) >= {"name", "description", "icon", "url", "release_date", "devices"}
    assert system["url"] == "https://example.org/images/edge-centernet-pi4.img.xz"
    assert (system["extract_size"], system["extract_sha256"]) == (
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    assert system["image_download_size"] == made[0].stat().st_size
    assert system["image_download_sha256"] == hashlib.sha256(made[0].read_bytes()).hexdigest()
    assert (system["release_date"], system["init_format"]) == ("2026-01-01", "cloudinit")
    assert [device["tags"] for device in entry["imager"]["devices"]] == [system["devices"]] == [["pi4-64bit"]]


def test_bmaptool_and_our_flash_take_it(
    base: Path, pi4: Path, signers: Path, tmp_path: Path, run: Run
) -> None:
    """Both find the block map beside the image by its name, and what they write is the image."""
    made = make_image(order(base, pi4, signers), tmp_path / "out")
    content = lzma.decompress(made[0].read_bytes())
    flashed = run("flash", made[0], tmp_path / "ours.img")
    assert flashed.code == 0, flashed.err
    assert "by edge-centernet-pi4.img.bmap" in flashed.out
    assert first_difference((tmp_path / "ours.img").read_bytes(), content) is None
    if shutil.which("bmaptool") is None:
        pytest.skip("no bmaptool: apt install bmap-tools")
    done = subprocess.run(
        ["bmaptool", "copy", made[0], tmp_path / "copy.img"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "edge-centernet-pi4.img.bmap" in done.stderr + done.stdout
    assert first_difference((tmp_path / "copy.img").read_bytes(), content) is None


def test_what_the_map_leaves_out_is_free(base: Path, pi4: Path, signers: Path, tmp_path: Path) -> None:
    """On a card full of old bytes both file systems are sound and complete, though much is not written."""
    made = make_image(order(base, pi4, signers), tmp_path / "out")
    image, _, _ = unpacked(made, tmp_path)
    mapped = diskimage.block_map.read(tmp_path / "out/edge-centernet-pi4.img.bmap")
    assert mapped.mapped < image.stat().st_size // 2
    content, card = image.read_bytes(), bytearray(b"\xa5" * image.stat().st_size)
    for part in mapped.ranges:
        card[part.start : part.end] = content[part.start : part.end]
    image.write_bytes(card)
    boot, root = diskimage.partitions_of(image)
    Ext4(image, root.start, 0).check()
    subprocess.run(["e2fsck", "-fn", f"{image}?offset={root.start}"], check=True, capture_output=True)
    fat = tmp_path / "fat.img"
    fat.write_bytes(card[boot.start : boot.start + boot.size])
    subprocess.run(["fsck.vfat", "-n", fat], check=True, capture_output=True)
    assert first_difference(Fat(image, boot.start, 0).read(f"{FOLDER}/bundle.tar"), pi4.read_bytes()) is None


def test_equal_inputs_give_equal_bytes(base: Path, pi4: Path, signers: Path, tmp_path: Path) -> None:
    """Image, block map and sum do not depend on when and where they are made."""
    settings = Settings("door", "anna", "$6$salt$hash")
    first = make_image(order(base, pi4, signers, settings=settings), tmp_path / "a")
    time_passes = tmp_path / "b" / "deeper"
    subprocess.run([sys.executable, "-c", "import time; time.sleep(2.1)"], check=True)  # FAT counts in 2 s
    second = make_image(order(base, pi4, signers, settings=settings), time_passes)
    for one, other in zip(first[:3], second[:3], strict=True):
        assert first_difference(one.read_bytes(), other.read_bytes()) is None, one.name


def test_fat_partition_grows_for_a_large_bundle(key: Path, signers: Path, tmp_path: Path) -> None:
    """The second partition moves up unchanged; names, serials, files, their times and the disk id stay."""
    base = make_base(tmp_path / "base.img", fat_mb=36)
    large = make_bundle(tmp_path / "large.tar", key, size=20 * MIB)
    said: list[str] = []
    made = make_image(order(base, large, signers), tmp_path / "out", say=said.append)
    assert [text[:27] for text in said] == ["The FAT partition grows by "]
    image, fat, root = unpacked(made, tmp_path)
    assert (fat.label, fat.serial) == ("bootfs", "cafe1234")
    assert first_difference(fat.read(f"{FOLDER}/bundle.tar"), large.read_bytes()) is None
    assert fat.read("overlays/A long name, with Capitals.dtbo") == b"overlay" * 3000
    assert root.read("/etc/hostname") == b"raspberrypi\n"
    root.check()
    assert image.read_bytes()[440:446] == base.read_bytes()[440:446]
    before, after = diskimage.partitions_of(base), diskimage.partitions_of(image)
    assert after[0].start == before[0].start
    assert after[1].size == before[1].size
    assert after[1].start - before[1].start == after[0].size - before[0].size > 0


def test_growing_leaves_the_root_file_system_as_it_is(tmp_path: Path) -> None:
    """Byte for byte, at its new place."""
    base = make_base(tmp_path / "base.img", fat_mb=36)
    (_, before), content = diskimage.partitions_of(base), base.read_bytes()
    grow_fat(base, 8 * MIB, EPOCH)
    _, after = diskimage.partitions_of(base)
    assert after.start == before.start + 8 * MIB
    assert first_difference(base.read_bytes()[after.start :], content[before.start :]) is None


def test_image_is_as_large_as_an_emulator_wants(
    base: Path, pi4: Path, signers: Path, tmp_path: Path, run: Run
) -> None:
    """--expand adds room behind the partitions, which no card needs written."""
    arguments = [
        "image",
        "--target",
        "pi4",
        "--base",
        base,
        "--bundle",
        pi4,
        "--signers",
        signers,
        "--out",
        tmp_path,
    ]
    assert run(*arguments, "--expand", "256M").code == 0
    assert (
        json.loads((tmp_path / "edge-centernet-pi4.json").read_text())["os_list"][0]["extract_size"]
        == 256 * MIB
    )
    assert diskimage.block_map.read(tmp_path / "edge-centernet-pi4.img.bmap").mapped < 92 * MIB
    assert "expected a size such as 4G or 2048M" in run(*arguments, "--expand", "4 TB").err


def test_base_without_cloud_init_is_set_up_by_its_own_files(
    bookworm: Path, pi4: Path, signers: Path, tmp_path: Path
) -> None:
    """Raspberry Pi OS Bookworm: userconf.txt and ssh on the FAT, the rest in the root file system."""
    home = wifi("Café", PASSPHRASE, "DE")
    settings = Settings("door", "anna", "$6$salt$hash", ("ssh-ed25519 AAAA anna",), home, "Europe/Berlin")
    made = make_image(order(bookworm, pi4, signers, settings=settings), tmp_path / "out")
    _, fat, root = unpacked(made, tmp_path)
    assert fat.read("userconf.txt") == b"anna:$6$salt$hash\n"
    assert fat.read("ssh") == b""
    assert fat.read("user-data") is None
    assert fat.read("cmdline.txt") == (
        b"console=tty1 root=PARTUUID=12345678-02 rootwait cfg80211.ieee80211_regdom=DE\n"
    )
    assert root.read("/etc/hostname") == b"door\n"
    assert root.read("/etc/hosts") == b"127.0.0.1\tlocalhost\n127.0.1.1\tdoor\n"
    assert root.kind("/etc/localtime") == "link"
    assert root.read("/home/pi/.ssh/authorized_keys") == b"ssh-ed25519 AAAA anna\n"
    connection = "/etc/NetworkManager/system-connections/preconfigured.nmconnection"
    assert f"psk={home.key}\n".encode() in (root.read(connection) or b"")
    expected = {
        "/home/pi/.ssh": ("0700", "1000"),
        "/home/pi/.ssh/authorized_keys": ("0600", "1000"),
        connection: ("0600", "0"),
        f"/etc/systemd/system/{UNIT}": ("0644", "0"),
    }
    for path, (mode, owner) in expected.items():
        said = root._ask(f"stat {path}")[0]
        assert f"Mode:  {mode} " in said, path
        assert f"User: {owner:>5} " in said, path
    assert b"ExecStartPre=-/usr/sbin/rfkill unblock wifi" in (root.read(f"/etc/systemd/system/{UNIT}") or b"")
    entry = json.loads((tmp_path / "out/edge-centernet-pi4-door.json").read_text())
    assert entry["os_list"][0]["init_format"] == "systemd"
    root.check()


def test_base_that_looks_elsewhere_is_configured(pi4: Path, signers: Path, tmp_path: Path) -> None:
    """A Debian's cloud-init looks for its files in other places until it is configured."""
    base = make_base(
        tmp_path / "base.img", etc__cloud__cloud_DOT_cfg_DOT_d__99_DOT_cfg="datasource_list: [Ec2]\n"
    )
    made = make_image(order(base, pi4, signers), tmp_path / "out")
    _, _, root = unpacked(made, tmp_path)
    assert yaml.safe_load(root.read("/etc/cloud/cloud.cfg.d/99_edge_centernet.cfg") or b"") == {
        "datasource_list": ["NoCloud", "None"],
        "datasource": {"NoCloud": {"fs_label": "bootfs"}},
    }


def test_unit_is_one_that_systemd_takes(base: Path, pi4: Path, signers: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, and the paths are those of the base's own mount point."""
    made = make_image(order(base, pi4, signers, camera=b'camera = "0"\n'), tmp_path / "out")
    _, _, root = unpacked(made, tmp_path)
    text = root.read(f"/etc/systemd/system/{UNIT}") or b""
    assert b"\nConditionPathExists=!/opt/edge-centernet/current\n" in text
    assert b"\nAfter=cloud-init.service " in text
    assert b"/boot/firmware/edge-centernet/agent.py setup /boot/firmware/edge-centernet/bundle.tar" in text
    assert b"install -m 644 /boot/firmware/edge-centernet/camera.toml /etc/edge-centernet/" in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    (tmp_path / UNIT).write_bytes(text)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / UNIT], capture_output=True, text=True)
    assert UNIT not in done.stderr, done.stderr


@pytest.mark.slow
def test_board_installs_what_is_on_the_card(
    here: Target, bundle: Path, signers: Path, tmp_path: Path
) -> None:
    """The command of the first boot, run on the files of the FAT partition, sets up a root folder here."""
    base = make_base(
        tmp_path / "base.img",
        fat_mb=200,
        machine=62,
        **{f"usr__bin__python{here.python.replace('.', '_DOT_')}": elf(62).decode("latin-1")},
    )
    opened = open_base(base, EPOCH)
    install(opened, Order(here, base, bundle, signers.read_text()))
    fat, root = opened.fat, opened.root
    boot = tmp_path / "boot"
    boot.mkdir()
    fat.unpack(boot)
    line = next(
        line
        for line in (root.read(f"/etc/systemd/system/{UNIT}") or b"").decode().splitlines()
        if "agent.py" in line
    )
    words = (
        line.replace("ExecStart=/usr/bin/python3", sys.executable)
        .replace("/boot/firmware", str(boot))
        .split()
    )
    done = subprocess.run([*words, "--root", tmp_path / "board"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    board = tmp_path / "board"
    assert (board / "opt/edge-centernet/current/venv/bin/edge-centernet").exists()
    assert (board / "etc/edge-centernet/camera.toml").is_file()
    assert (board / "etc/edge-centernet/trusted_signers").read_bytes() == signers.read_bytes()


# -- refused


def test_bundle_that_the_board_would_refuse_is_refused_here(
    base: Path, key: Path, signers: Path, tmp_path: Path
) -> None:
    """Another signer, a damaged file, the model alone, another board: before anything is made."""
    stranger = new_key(tmp_path / "stranger")
    damaged = make_bundle(tmp_path / "damaged.tar", key)
    content = bytearray(damaged.read_bytes())
    content[-30_000] ^= 1
    damaged.write_bytes(content)
    for bundle, says in (
        (make_bundle(tmp_path / "a.tar", stranger), "signature: not by a signer in --signers"),
        (damaged, "wheels/noise.whl"),
        (make_bundle(tmp_path / "b.tar", key, kind="model"), "has the model only"),
        (make_bundle(tmp_path / "c.tar", key, target="pi5"), "is for pi5, the image is for pi4"),
        (tmp_path / "none.tar", "no such file"),
    ):
        with pytest.raises(ConfigError, match=says):
            make_image(order(base, bundle, signers), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert signers_line(stranger) != signers.read_text()


def test_base_that_the_bundle_cannot_run_on_is_refused(
    base: Path, key: Path, signers: Path, tmp_path: Path
) -> None:
    """Another Python, another processor, an unknown time zone; nothing is left in the output folder."""
    newer = make_bundle(tmp_path / "newer.tar", key, python="3.13")
    other = make_bundle(tmp_path / "other.tar", key, machine="armv7l")
    good = make_bundle(tmp_path / "good.tar", key)
    for bundle, settings, says in (
        (newer, Settings(), r"has python3\.11, the bundle is for 3\.13; make the bundle with --python 3\.11"),
        (other, Settings(), r"is a system for aarch64, the bundle \(pi4\) is for armv7l"),
        (
            good,
            Settings(timezone="Europe/Bärlin".replace("ä", "a")),
            "--timezone: the base knows no Europe/Barlin",
        ),
    ):
        with pytest.raises(ConfigError, match=says):
            make_image(order(base, bundle, signers, settings=settings), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_base_that_is_no_base_is_refused(base: Path, pi4: Path, signers: Path, tmp_path: Path) -> None:
    """One partition only, another system, a root file system that was in use, a cut download."""
    one = Path(shutil.copy(base, tmp_path / "one.img"))
    with one.open("r+b") as file:
        file.write(partition_table((0x0C, START // 512, 64 * 2048)))
    used = Path(shutil.copy(base, tmp_path / "used.img"))
    with used.open("r+b") as file:
        file.seek(START + 64 * MIB + 1024 + 96)
        flags = struct.unpack("<I", file.read(4))[0]
        file.seek(-4, os.SEEK_CUR)
        file.write(struct.pack("<I", flags | 4))  # needs_recovery
    cut = tmp_path / "cut.img"
    cut.write_bytes(base.read_bytes()[: 40 * MIB])
    for path, says in (
        (one, "expected a FAT partition and then a Linux one"),
        (make_base(tmp_path / "other.img", etc__fstab=None), "expected a Debian with systemd"),
        (
            make_base(tmp_path / "flat.img", etc__fstab="/dev/sda2 / ext4\n"),
            "mounts no FAT partition below /boot",
        ),
        (used, "was not unmounted; take a published image"),
        (cut, "is incomplete: its partitions end at"),
    ):
        with pytest.raises(DiskImageError, match=says):
            make_image(order(path, pi4, signers), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_missing_program_names_its_package(
    base: Path, pi4: Path, signers: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before anything is made."""
    for name in ("ssh-keygen", "xz", "debugfs"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    result = run(
        "image",
        "--target",
        "pi4",
        "--base",
        base,
        "--bundle",
        pi4,
        "--signers",
        signers,
        "--out",
        tmp_path / "o",
    )
    assert (result.code, result.err) == (
        2,
        "Error: making an image needs the program mcopy: sudo apt install mtools\n",
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--user", "anna"], "could not log in; give --ssh-key FILE or --password-file FILE too"),
        (["--wifi", "net"], "--wifi: give --wifi-password-file FILE too"),
        (["--wifi-country", "DE"], "expected --wifi SSID with it; name the network"),
        (["--camera-config", "{camera}"], "unknown setting 'camra'"),
        (["--user", "anna", "--ssh-key", "{key}"], "is a private key, which stays with you"),
        (["--user", "anna", "--password-file", "{empty}"], "expected a password, or its crypt hash"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], says: str, base: Path, pi4: Path, signers: Path, key: Path, tmp_path: Path, run: Run
) -> None:
    """One line each, nothing made."""
    (tmp_path / "camera.toml").write_text('camra = "0"\n')
    (tmp_path / "empty").touch()
    places = {"camera": tmp_path / "camera.toml", "key": key, "empty": tmp_path / "empty"}
    arguments = [
        "--target",
        "pi4",
        "--base",
        base,
        "--bundle",
        pi4,
        "--signers",
        signers,
        "--out",
        tmp_path / "out",
    ]
    result = run("image", *arguments, *(option.format(**places) for option in options))
    assert result.code == 2
    assert says in result.err
    assert not (tmp_path / "out").exists()


def test_full_file_system_of_the_base_is_an_error(tmp_path: Path) -> None:
    """A file that does not fit into the root file system is an error, not a damaged image."""
    base = make_base(tmp_path / "base.img", fat_mb=36)
    root = open_base(base, EPOCH).root
    with pytest.raises(
        DiskImageError, match=r"could not write /etc/large into its root file system; is it full\?"
    ):
        root.write("/etc/large", os.urandom(30 * MIB))
