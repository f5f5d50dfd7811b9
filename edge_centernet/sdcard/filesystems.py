"""The file systems in a disk image, read and changed in place: FAT by mtools, ext4 by e2fsprogs.

Neither needs root or a loop device, and both give the same bytes for the same content and time.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_centernet.errors import DiskImageError, MissingDependency

_APT = {
    "mcopy": "mtools",
    "mlabel": "mtools",
    "mmd": "mtools",
    "mdir": "mtools",
    "mkfs.vfat": "dosfstools",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "xz": "xz-utils",
    "openssl": "openssl",
}
_SBIN = ("/usr/sbin", "/sbin")  # not in the PATH of an ordinary user


def tool(name: str) -> str:
    """Path of a program. Raises MissingDependency with the Debian package to install."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))
    if found is None:
        raise MissingDependency(f"making an image needs the program {name}: sudo apt install {_APT[name]}")
    return found


def run(arguments: list[str], epoch: int, stdin: bytes = b"", codes: tuple[int, ...] = (0,)) -> bytes:
    """Run a program that writes `epoch` (seconds since 1970) wherever it would write the time.

    Returns its stdout. Raises DiskImageError with its last line unless it ends with one of `codes`.
    """
    # Three tools, three variables for the time; and nobody's own configuration or pager.
    environment = {
        **os.environ,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "E2FSPROGS_FAKE_TIME": str(epoch),
        "MTOOLSRC": os.devnull,
        "MTOOLS_SKIP_CHECK": "1",
        "DEBUGFS_PAGER": "cat",
    }
    done = subprocess.run(
        [tool(arguments[0]), *arguments[1:]], input=stdin, capture_output=True, env=environment, check=False
    )
    if done.returncode not in codes:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "no reason given"
        raise DiskImageError(f"{arguments[0]} ended with {done.returncode}: {reason}")
    return done.stdout


# FAT, after Microsoft's "FAT32 File System Specification"


@dataclass(frozen=True)
class _Layout:
    """Where everything is, in bytes from the start of the file system.

    table: the first FAT. data: the first cluster. clusters: their number. bits: 12, 16 or 32.
    """

    sector: int
    cluster: int
    table: int
    table_size: int
    data: int
    clusters: int
    bits: int
    serial: int


class Fat:
    """A FAT file system that begins at byte `start` of `image`."""

    def __init__(self, image: Path, start: int, epoch: int) -> None:
        """epoch: the time of every file that is written, seconds since 1970."""
        self._at, self._epoch = f"{image}@@{start}", epoch
        self._image, self._start = image, start
        with image.open("rb") as file:
            file.seek(start)
            head = file.read(512)
        # Sectors of 512 or 4096 bytes; nothing else is a card's.
        if len(head) < 512 or head[510:] != b"\x55\xaa" or head[11:13] not in (b"\x00\x02", b"\x00\x10"):
            raise DiskImageError(f"{image}: expected a FAT file system at byte {start}")
        sector, per_cluster, reserved, tables, entries, total16 = struct.unpack_from("<HBHBHH", head, 11)
        table16 = struct.unpack_from("<H", head, 22)[0]
        total32, table32 = struct.unpack_from("<II", head, 32)
        table = (table16 or table32) * sector
        data = reserved * sector + tables * table + entries * 32
        clusters = ((total16 or total32) * sector - data) // (per_cluster * sector)
        # FAT32 alone has its table's size in the other field; of the rest, the number of clusters decides.
        bits = 32 if not table16 else 16 if clusters >= 4085 else 12
        serial = struct.unpack_from("<I", head, 67 if bits == 32 else 39)[0]
        cluster = per_cluster * sector
        self._layout = _Layout(sector, cluster, reserved * sector, table, data, clusters, bits, serial)

    def _free_clusters(self) -> list[int]:
        """Numbers of the clusters that no file uses; the first cluster of a FAT is number 2."""
        layout = self._layout
        with self._image.open("rb") as file:
            file.seek(self._start + layout.table)
            table = file.read(layout.table_size)
        if layout.bits == 12:
            return []  # entries of 12 bits are of no use here: such a FAT is too small for a bundle
        width, kind = (4, "I") if layout.bits == 32 else (2, "H")
        count = min(layout.clusters + 2, len(table) // width)
        values = struct.unpack_from(f"<{count}{kind}", table)
        # The upper four bits of a FAT32 entry are reserved.
        return [number for number in range(2, count) if not values[number] & 0x0FFFFFFF]

    @property
    def free(self) -> int:
        """Bytes that files can still take."""
        return len(self._free_clusters()) * self._layout.cluster

    def free_ranges(self) -> list[tuple[int, int]]:
        """(start, end), in bytes of the image, of what no file uses, in order."""
        ranges: list[list[int]] = []
        for number in self._free_clusters():
            first = self._start + self._layout.data + (number - 2) * self._layout.cluster
            if ranges and ranges[-1][1] == first:
                ranges[-1][1] += self._layout.cluster
            else:
                ranges.append([first, first + self._layout.cluster])
        return [(first, end) for first, end in ranges]

    @property
    def label(self) -> str:
        """Its name, "" if it has none."""
        output = run(["mlabel", "-s", "-i", self._at, "::"], self._epoch).decode(errors="replace")
        match = re.search(r"label is (.*)", output)
        return match.group(1).strip() if match else ""

    @property
    def serial(self) -> str:
        """Its volume id as eight hexadecimal digits."""
        return f"{self._layout.serial:08x}"

    def folder(self, name: str) -> None:
        """Make a folder if there is none of that name."""
        # mdir fails where nothing is; mmd would ask what to do about a folder that is there.
        if not run(["mdir", "-b", "-i", self._at, f"::{name}"], self._epoch, codes=(0, 1)):
            run(["mmd", "-i", self._at, f"::{name}"], self._epoch)

    def read(self, name: str) -> bytes | None:
        """A file's content, None if there is no such file."""
        try:
            return run(["mcopy", "-i", self._at, f"::{name}", "-"], self._epoch)
        except DiskImageError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, over one that is there."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "content"
            file.write_bytes(content)
            self.copy(name, file)

    def copy(self, name: str, source: Path) -> None:
        """Write a file with the content of `source`, over one that is there."""
        with tempfile.TemporaryDirectory() as folder:
            # mcopy -m takes the time from the file, so it gets a copy with the right time.
            copy = Path(folder) / "content"
            shutil.copyfile(source, copy)
            os.utime(copy, (self._epoch, self._epoch))
            run(["mcopy", "-o", "-m", "-i", self._at, str(copy), f"::{name}"], self._epoch)

    def unpack(self, folder: Path) -> None:
        """Copy all files into an empty folder, with their times."""
        run(["mcopy", "-s", "-m", "-n", "-i", self._at, "::/*", str(folder)], self._epoch)

    def fill(self, folder: Path) -> None:
        """Copy all files of a folder into it, in the order of their names."""
        names = sorted(str(path) for path in folder.iterdir())
        if names:
            run(["mcopy", "-s", "-m", "-Q", "-i", self._at, *names, "::"], self._epoch)


def make_fat(image: Path, start: int, size: int, label: str, serial: str, epoch: int) -> Fat:
    """Make a new, empty FAT32 in `size` bytes from `start`, where the image must be zero.

    Args:
        image: the disk image.
        start: first byte of the file system, a multiple of 512.
        size: bytes.
        label: its name; "" stands for "bootfs", that of Raspberry Pi OS.
        serial: its volume id, eight hexadecimal digits.
        epoch: its time, seconds since 1970.
    """
    # A FAT32 has 65525 clusters or more, and some readers judge by nothing else; 66000 leave a margin.
    per_cluster = next((count for count in (8, 4, 2) if size // 512 // count > 66000), 1)
    options = ["-F", "32", "-s", str(per_cluster), "-n", label or "bootfs", "-i", serial]
    offset = ["--offset", str(start // 512)]
    run(["mkfs.vfat", *options, *offset, str(image), str(size // 1024)], epoch)
    return Fat(image, start, epoch)


# ext4


class Ext4:
    """An ext4 file system that begins at byte `start` of `image`. Paths are absolute, as on the board."""

    def __init__(self, image: Path, start: int, epoch: int) -> None:
        """epoch: the time of everything that is written, seconds since 1970.

        Raises DiskImageError for another kind of file system.
        """
        if "?" in str(image):
            raise DiskImageError(f"{image}: a path with '?' cannot be given to debugfs; use another folder")
        with image.open("rb") as file:
            file.seek(start + 1024)
            head = file.read(1024)
        if head[56:58] != b"\x53\xef":
            raise DiskImageError(f"{image}: expected an ext4 file system at byte {start}")
        self._at, self._start, self._epoch = f"{image}?offset={start}", start, epoch
        self._image = image
        # s_state bit 0: cleanly unmounted. s_feature_incompat bit 2: its journal needs recovery.
        state, features = struct.unpack_from("<H", head, 58)[0], struct.unpack_from("<I", head, 96)[0]
        self._dirty = not state & 1 or features & 4

    def must_be_clean(self) -> None:
        """Raise DiskImageError if it was in use when the image was taken."""
        if self._dirty:
            raise DiskImageError(
                f"{self._image}: its root file system was not unmounted; "
                "take a published image, not that of a card in use"
            )

    def _ask(self, command: str) -> tuple[str, str]:
        """What debugfs prints to stdout and stderr, without the line with its version."""
        arguments = [tool("debugfs"), "-R", command, self._at]
        done = subprocess.run(
            arguments, capture_output=True, env={**os.environ, "DEBUGFS_PAGER": "cat"}, check=False
        )
        errors = done.stderr.decode(errors="replace").splitlines()[1:]
        return done.stdout.decode(errors="replace"), " ".join(errors)

    def kind(self, path: str) -> str:
        """What is at a path: "file", "folder", "link", another word, or "" for nothing.

        A link at the end of the path is not followed.
        """
        match = re.search(r"Type: ([\w ]+?)\s+Mode:", self._ask(f"stat {_quoted(path)}")[0])
        kinds = {"regular": "file", "directory": "folder", "symlink": "link"}
        return kinds.get(match.group(1), match.group(1)) if match else ""

    def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        return bool(self.kind(path))

    def read(self, path: str) -> bytes | None:
        """A file's content, None if there is no such file."""
        if self.kind(path) != "file":
            return None
        return run(["debugfs", "-R", f"cat {_quoted(path)}", self._at], self._epoch)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none if there is no such folder."""
        lines = self._ask(f"ls -p {_quoted(folder)}")[0].splitlines()
        names = [parts[5] for line in lines if len(parts := line.split("/")) > 6]
        return sorted(name for name in names if name not in (".", ".."))

    def folder(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        """Make a folder, and those above it, where they are missing."""
        above, name = path.rpartition("/")[::2]
        if above and not self.exists(above):
            self.folder(above, mode, owner)
        if not name or self.exists(path):
            return
        self._change([f"mkdir {_quoted(path)}", *self._fields(path, stat.S_IFDIR | mode, owner)])
        # debugfs ends with 0 whatever happened, so every change is read back.
        if self.kind(path) != "folder":
            raise DiskImageError(f"{self._image}: could not make the folder {path} in its root file system")

    def write(self, path: str, content: bytes, mode: int = 0o644, owner: int = 0) -> None:
        """Write a file, over one that is there; its folder must exist.

        Raises DiskImageError if there is no room for it.
        """
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "content"
            source.write_bytes(content)
            commands = [f"rm {_quoted(path)}"] if self.exists(path) else []
            commands += [f"write {source} {_quoted(path)}", *self._fields(path, stat.S_IFREG | mode, owner)]
            self._change(commands)
        if self.read(path) != content:
            raise DiskImageError(
                f"{self._image}: could not write {path} into its root file system; is it full?"
            )

    def link(self, path: str, to: str) -> None:
        """Make a symbolic link, over one that is there."""
        commands = [f"rm {_quoted(path)}"] if self.exists(path) else []
        self._change([*commands, f"symlink {_quoted(path)} {_quoted(to)}"])
        if self.kind(path) != "link":
            raise DiskImageError(f"{self._image}: could not make the link {path} in its root file system")

    def _fields(self, path: str, mode: int, owner: int) -> list[str]:
        """Commands that set type, mode and owner, which debugfs would take from this computer."""
        fields = {"mode": f"0{mode:o}", "uid": str(owner), "gid": str(owner)}
        return [f"set_inode_field {_quoted(path)} {name} {value}" for name, value in fields.items()]

    def _change(self, commands: list[str]) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".debugfs") as script:
            script.write("\n".join(commands) + "\n")
            script.flush()
            run(["debugfs", "-w", "-f", script.name, self._at], self._epoch)

    def check(self) -> None:
        """Raise DiskImageError if e2fsck finds anything wrong."""
        run(["e2fsck", "-f", "-n", self._at], self._epoch)

    def free_ranges(self) -> list[tuple[int, int]]:
        """(start, end), in bytes of the image, of blocks that nothing uses, in order."""
        output = run(["dumpe2fs", self._at], self._epoch).decode(errors="replace")
        block = int(re.findall(r"^Block size:\s*(\d+)", output, re.M)[0])
        groups = re.findall(r"^  Free blocks: ?([\d, -]*)$", output, re.M)  # "5-9, 12"
        found = []
        for part in (part.strip() for text in groups for part in text.split(",") if part.strip()):
            first, _, last = part.partition("-")
            found.append((self._start + int(first) * block, self._start + (int(last or first) + 1) * block))
        return sorted(found)


def _quoted(path: str) -> str:
    """A path in the quotation marks of debugfs, which has no way to write one within them."""
    if '"' in path or "\n" in path:
        raise DiskImageError(
            f"{path!r}: a path with a quotation mark or line break cannot be given to debugfs"
        )
    return f'"{path}"'
