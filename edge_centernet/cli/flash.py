"""`edge-centernet flash`: an image onto an SD card, or a Jetson through NVIDIA's own tool."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.errors import ConfigError, printable
from edge_centernet.progress import byte_bars, size_text
from edge_centernet.sdcard import diskimage, flash, jetson_flash
from edge_centernet.sdcard.diskimage import DiskImage
from edge_centernet.sdcard.flash import Target


@click.command(cls=Command)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@option_group(
    click.option("--dry-run", is_flag=True, help="Only show what would be written, and where."),
    click.option("--verify-only", is_flag=True, help="Compare the target with the image; write nothing."),
    click.option(
        "--confirm", metavar="NAME", help="Write without asking; NAME is the name of the target, such as sdb."
    ),
    click.option(
        "--force", is_flag=True, help="Overwrite a regular file without asking. Has no effect on disks."
    ),
    click.option(
        "--force-non-removable",
        is_flag=True,
        help="Accept an internal disk, though never the one the system runs on.",
    ),
    click.option(
        "--expect-sha256", metavar="SUM", help="Expected SHA-256 of the image, as downloaded or decompressed."
    ),
    heading="SD card",
)
@option_group(
    click.option(
        "--jetson",
        is_flag=True,
        help="Flash a Jetson: IMAGE is NVIDIA's Linux_for_Tegra folder, TARGET the name of a board "
        "configuration.",
    ),
    click.option(
        "--storage",
        type=click.Choice(list(jetson_flash.STORAGES)),
        default="nvme",
        show_default=True,
        help="Storage for the root file system of the Jetson.",
    ),
    click.option(
        "--execute", is_flag=True, help="Run NVIDIA's command. Without this option it is only shown."
    ),
    heading="Jetson",
)
def command(
    image: Path,
    target: Path,
    confirm: str | None,
    dry_run: bool,
    force: bool,
    force_non_removable: bool,
    expect_sha256: str | None,
    verify_only: bool,
    jetson: bool,
    storage: str,
    execute: bool,
) -> None:
    """Flash IMAGE (.img, .img.xz, .img.gz, .img.zst) to TARGET, a whole removable disk or file, and verify.

    Nothing is written until you type the target's name, or pass it with --confirm. First, the image is read
    and compared with its checksums, if there are any (IMAGE.sha256, IMAGE.bmap, --expect-sha256). The first
    MiB is written last, after everything else has been verified, so that a card that was interrupted does not
    boot.

    A Jetson is flashed over USB by NVIDIA's own tools: --jetson checks their folder and the board in recovery
    mode, and shows the command or, with --execute, runs it.

    Example: edge-centernet flash edge-centernet-pi4.img.xz /dev/sdb

    Example: edge-centernet flash --jetson ~/Linux_for_Tegra jetson-orin-nano-devkit --storage nvme
    """
    if jetson:
        tree = jetson_flash.check_tree(image, str(target))
        module = jetson_flash.find_module(str(target))
        parts = jetson_flash.command(tree, module, storage)
        release = ".".join(map(str, tree.release))
        echo(f"{module.name} in recovery mode, L4T {release}; all on its {storage} is lost.")
        echo(f"cd {shlex.quote(str(tree.folder))} && {shlex.join(parts)}")
        if execute:
            jetson_flash.execute(tree, parts)
    elif execute:
        raise ConfigError("--execute: only applies to --jetson; to write an image, type the target's name")
    else:
        _flash(image, target, confirm, dry_run, force, force_non_removable, expect_sha256, verify_only)


def _flash(
    image: Path, target: Path, confirm: str | None, dry_run: bool, force: bool, force_non_removable: bool,
    expect_sha256: str | None, verify_only: bool,
) -> None:  # fmt: skip
    # 1. Refuse a target that must not be written before minutes of reading the image.
    place = flash.find_target(target, verify_only)
    if not verify_only:
        if confirm not in (None, place.name):
            raise ConfigError(
                f"--confirm: expected {place.name}, the target's name, got {confirm}; nothing was written"
            )
        flash.refuse(place, image, force_non_removable=force_non_removable)
    # 2. Read the whole image and compare it with its checksums.
    with byte_bars() as progress:
        checked = diskimage.check(image, expect_sha256, None if verify_only else place.room, progress)
    if verify_only:
        with byte_bars() as progress:
            compared = flash.verify(checked, place, progress)
        echo(f"{target}: equals {image} in all {compared} bytes compared")
        return
    # 3. Refuse again, now that the size is known and time has passed; show what would be lost.
    flash.refuse(place, image, checked.size, force_non_removable)
    echo(_plan(checked, place))
    # 4. Ask: by --confirm NAME, which was compared above, by --force for a file, or by typing the name. A new
    # file needs neither.
    confirmed = confirm is not None or (place.disk is None and (force or not place.overwrites))
    if not dry_run and not confirmed and sys.stdin.isatty():
        question = f"All of it will be lost. Type {place.name} to write"
        confirmed = click.prompt(printable(question), default="", show_default=False).strip() == place.name
    if dry_run or not confirmed:
        echo(f"Nothing was written. To write: --confirm {place.name}")
        return
    # 5. Write, and read back.
    begin = time.monotonic()
    with byte_bars() as progress:
        blocks = flash.write(checked, place, force_non_removable, progress)
    written = size_text(sum(block.size for block in blocks))
    seconds = time.monotonic() - begin
    echo(f"{place.path}: wrote {written} and read them back, in {seconds:.0f} s; all equal")


def _plan(image: DiskImage, target: Target) -> str:
    """What would be written where, and what is lost."""
    # 1. The image.
    parts = ", ".join(f"{part.number}: {size_text(part.size)} {part.kind}" for part in image.partitions)
    packed = "" if image.packing == "img" else f", {size_text(image.path.stat().st_size)} packed"
    mapped = ""
    if image.bmap_path:
        mapped = f", of which {size_text(image.to_write)} to write by {image.bmap_path.name}"
    lines = [
        f"Image   {image.path}: {size_text(image.size)}{packed}{mapped}",
        f"        sha256 {image.sha256}",
        f"        partitions {parts}",
    ]
    # 2. The target: a file, or a disk with what makes it recognizable.
    disk = target.disk
    if disk is None:
        kind = "a file that exists and is overwritten" if target.overwrites else "a new file"
        return "\n".join([*lines, f"Target  {target.path}: {kind}"])
    facts = [size_text(disk.size), disk.model or "no model", f"serial {disk.serial or 'unknown'}"]
    real = f" ({target.real})" if target.path != target.real else ""
    lines.append(f"Target  {target.path}{real}: {', '.join([*facts, disk.bus or 'built in'])}")
    if disk.backing:
        lines.append(f"        shows the file {disk.backing}")
    # 3. What is on it, by the names that the system shows for it.
    labels = {part.name: part.label for part in disk.partitions}
    erased = []
    for part in flash.partitions_on(target):
        name = f"{disk.name}{'p' * disk.name[-1].isdigit()}{part.number}"
        label = f" '{labels[name]}'" if labels.get(name) else ""
        erased.append(f"        erased: {name}{label}, {size_text(part.size)} {part.kind}")
    return "\n".join([*lines, *(erased or ["        erased: everything (no partitions seen)"])])
