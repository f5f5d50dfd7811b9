"""`edge-centernet image`: an SD card image with which a board detects as soon as it boots."""

from __future__ import annotations

import re
from pathlib import Path

import click

from edge_centernet.cli import Command, echo, option_group
from edge_centernet.deploy.boards import TARGETS, find_target
from edge_centernet.deploy.bundle import camera_settings
from edge_centernet.deploy.signing import as_signers
from edge_centernet.errors import ConfigError
from edge_centernet.progress import byte_bars
from edge_centernet.sdcard import nocloud
from edge_centernet.sdcard.build import Order, make_image

# A Jetson is flashed by NVIDIA's tools, a PC starts in other ways.
BOARDS = [name for name in TARGETS if name.startswith(("pi", "generic"))]
_FILE = click.Path(dir_okay=False, path_type=Path)


def byte_size(text: str) -> int:
    """The type of --expand: 4G or 2048M, in powers of 1024, as emulators want it; becomes bytes."""
    match = re.fullmatch(r"(\d+)([MG])i?B?", text)
    if not match:
        raise click.BadParameter(f"expected a size such as 4G or 2048M, got {text!r}")
    return int(match[1]) << (20 if match[2] == "M" else 30)


@click.command(cls=Command)
@option_group(
    click.option("--target", required=True, type=click.Choice(BOARDS), help="Board to build for."),
    click.option(
        "--base",
        required=True,
        type=_FILE,
        help="Base image: Raspberry Pi OS, or one made by build_base.sh (.img, .img.xz, ...).",
    ),
    click.option(
        "--bundle",
        required=True,
        type=_FILE,
        help="Bundle that `edge-centernet bundle` made for the same target.",
    ),
    click.option(
        "--signers",
        required=True,
        type=_FILE,
        help="Keys that the board shall trust: the file `signers` next to the bundle, or a .pub.",
    ),
    click.option(
        "--camera-config",
        type=_FILE,
        metavar="TOML",
        help="Settings of the first camera.  [default: those in the bundle]",
    ),
    heading="Contents",
)
@option_group(
    click.option("--user", default="", help="User who may log in and use sudo.  [default: nobody]"),
    click.option("--ssh-key", type=_FILE, help="Public key of the user, such as ~/.ssh/id_ed25519.pub."),
    click.option(
        "--password-file", type=_FILE, help="File whose first line is the user's password, or its crypt hash."
    ),
    click.option("--hostname", default="", help="Host name of the board.  [default: that of the base]"),
    click.option(
        "--timezone",
        default="",
        metavar="NAME",
        help="Time zone, such as Europe/Berlin.  [default: that of the base]",
    ),
    heading="User and system",
)
@option_group(
    click.option("--wifi", "ssid", default="", metavar="SSID", help="Name of the Wi-Fi network."),
    click.option("--wifi-password-file", type=_FILE, help="File whose first line is the Wi-Fi passphrase."),
    click.option(
        "--wifi-country",
        default="",
        metavar="CC",
        help="Country in which the Wi-Fi is used, such as DE, GB or US.",
    ),
    heading="Wi-Fi",
)
@option_group(
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("dist"),
        show_default=True,
        help="Output folder, created if missing.",
    ),
    click.option(
        "--url",
        default="",
        help="Address of the folder where the files will be published, for rpi-imager.  [default: file://]",
    ),
    click.option(
        "--expand",
        type=byte_size,
        default="0M",
        metavar="SIZE",
        help="Smallest size of the image, such as 4G; an emulator needs room to grow.",
    ),
    heading="Output",
)
def command(
    target: str,
    base: Path,
    bundle: Path,
    signers: Path,
    user: str,
    ssh_key: Path | None,
    password_file: Path | None,
    hostname: str,
    ssid: str,
    wifi_password_file: Path | None,
    wifi_country: str,
    timezone: str,
    camera_config: Path | None,
    expand: int,
    url: str,
    out: Path,
) -> None:
    """Build an SD card image: on its first boot the board installs the bundle, offline, and starts to detect.

    Writes NAME.img.xz with its block map and checksum for `edge-centernet flash` or bmaptool, and NAME.json
    for `rpi-imager --repo`. Root is not needed. Passwords are read from files, and the image holds only their
    hashes. The same inputs give the same bytes (SOURCE_DATE_EPOCH sets the time of the files inside).

    Example: edge-centernet image --target pi4 --base raspios.img.xz
    --bundle dist/edge-centernet-0.1.0-pi4.tar --signers dist/signers --user anna
    --ssh-key ~/.ssh/id_ed25519.pub
    """
    board = find_target(target)
    if ssid and wifi_password_file is None:
        raise ConfigError(
            "--wifi: give --wifi-password-file FILE too; on a command line every user could read it"
        )
    if not ssid and (wifi_password_file or wifi_country):
        raise ConfigError(
            "--wifi-password-file, --wifi-country: expected --wifi SSID with it; name the network"
        )
    wifi = nocloud.wifi(ssid, _first_line(wifi_password_file), wifi_country) if wifi_password_file else None
    password = ""
    if password_file:
        # The salt is made of these names, so that the same inputs give the same image.
        password = nocloud.password_hash(_first_line(password_file), f"{user} {hostname} {bundle.name}")
    keys = nocloud.public_keys(_text(ssh_key), str(ssh_key)) if ssh_key else ()
    settings = nocloud.Settings(hostname, user, password, keys, wifi, timezone)
    camera = camera_settings(camera_config) if camera_config else b""
    order = Order(board, base, bundle, as_signers(signers), settings, camera, expand, url)
    with byte_bars() as progress:
        made = make_image(order, out, progress, lambda line: echo(line, err=True))
    for path in made:
        echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected text, got a binary file") from None


def _first_line(path: Path) -> str:
    return (_text(path).splitlines() or [""])[0]
