"""The settings of a board's first start (user, keys, network, name), as files of cloud-init's NoCloud source.

A Raspberry Pi OS without cloud-init gets them in files of its own. Secrets are only in them as hashes: a
password as SHA-512 crypt, a Wi-Fi passphrase as the key that WPA derives from it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_centernet.errors import ConfigError
from edge_centernet.sdcard.filesystems import tool

GROUPS = ("adm", "dialout", "plugdev", "sudo", "users", "video")


@dataclass(frozen=True)
class Wifi:
    """A Wi-Fi network. ssid: up to 32 bytes; key: 64 hexadecimal digits; country: two letters."""

    ssid: str
    key: str
    country: str


@dataclass(frozen=True)
class Settings:
    """What the owner wants of the board; "" and None leave the base as it is. password: a crypt hash."""

    hostname: str = ""
    user: str = ""
    password: str = ""
    ssh_keys: tuple[str, ...] = ()
    wifi: Wifi | None = None
    timezone: str = ""

    def __post_init__(self) -> None:
        """Raise ConfigError for what no board would accept."""
        if self.hostname and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", self.hostname):
            raise ConfigError(
                f"--hostname: expected small letters, digits and hyphens, got {self.hostname!r}"
            )
        if self.user and (not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", self.user) or self.user == "root"):
            raise ConfigError(f"--user: expected a Linux user name other than root, got {self.user!r}")
        if (self.password or self.ssh_keys) and not self.user:
            raise ConfigError("--ssh-key, --password-file: expected --user NAME with them, to say whose")
        if self.user and not (self.password or self.ssh_keys):
            raise ConfigError(
                f"--user {self.user}: could not log in; give --ssh-key FILE or --password-file FILE too"
            )
        if self.timezone and not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", self.timezone):
            raise ConfigError(f"--timezone: expected a name such as Europe/Berlin, got {self.timezone!r}")

    @property
    def secret(self) -> bool:
        """Whether it contains something that not everybody should be able to read."""
        return bool(self.password or self.wifi)


def password_hash(password: str, salted_by: str) -> str:
    """SHA-512 crypt of a password; what is a crypt hash already is returned as it is.

    The salt is made of `salted_by` (user, board, bundle), so that equal inputs give equal images, and other
    boards have other salts. Raises ConfigError for an empty password or one that cannot be typed at a login.
    """
    if re.fullmatch(r"\$(5|6|y|2[aby])\$[^\s:]+", password):
        return password
    if not password or not password.isprintable():
        raise ConfigError("--password-file: expected a password, or its crypt hash, in the first line")
    salt = base64.b64encode(hashlib.sha256(salted_by.encode()).digest(), altchars=b"./")[:16].decode()
    # By stdin, because every user of this computer can read a command line.
    done = subprocess.run(
        [tool("openssl"), "passwd", "-6", "-salt", salt, "-stdin"],
        input=password.encode() + b"\n",
        capture_output=True,
        check=False,
    )
    if done.returncode or not done.stdout.startswith(b"$6$"):
        raise ConfigError(
            "openssl could not hash the password (openssl passwd -6); OpenSSL 1.1.1 or later is needed"
        )
    return done.stdout.decode().strip()


def wifi(ssid: str, passphrase: str, country: str) -> Wifi:
    """A Wi-Fi network with the key that WPA2 derives from its passphrase (IEEE 802.11i, annex H.4).

    passphrase: 8 to 63 characters, or the 64 hexadecimal digits of a key. Raises ConfigError for values that
    the standard excludes; the message never contains the passphrase.
    """
    if not 1 <= len(ssid.encode()) <= 32 or not ssid.isprintable():
        raise ConfigError(f"--wifi: expected a network name of 1 to 32 bytes, got {len(ssid.encode())}")
    if not re.fullmatch("[A-Z]{2}", country):
        raise ConfigError(
            f"--wifi-country: expected two letters such as DE, got {country!r}; the radio stays off without"
        )
    if re.fullmatch("[0-9a-fA-F]{64}", passphrase):
        return Wifi(ssid, passphrase.lower(), country)
    if not 8 <= len(passphrase) <= 63 or not passphrase.isascii() or not passphrase.isprintable():
        raise ConfigError("--wifi-password-file: expected 8 to 63 ASCII characters in the first line")
    # 4096 rounds and the SSID as the salt are given by the standard.
    key = hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid.encode(), 4096, 32).hex()
    return Wifi(ssid, key, country)


def public_keys(text: str, source: str) -> tuple[str, ...]:
    """The public ssh keys in a file's text. Raises ConfigError for a private key, which is never shown."""
    if "PRIVATE KEY" in text:
        raise ConfigError(
            f"{source}: is a private key, which stays with you; give the file that ends with .pub"
        )
    keys = tuple(
        line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    )
    if not keys or not all(re.match(r"(\S+ )?(ssh-|ecdsa-|sk-)\S+ AAAA\S+( .*)?$", key) for key in keys):
        raise ConfigError(f"{source}: expected public ssh keys, one a line, such as ~/.ssh/id_ed25519.pub")
    return keys


# cloud-init


def user_data(settings: Settings) -> str:
    """The file user-data: user, keys, name and time zone, which cloud-init sets once."""
    config: dict[str, Any] = {}
    if settings.hostname:
        config |= {"hostname": settings.hostname, "manage_etc_hosts": True}
    if settings.timezone:
        config["timezone"] = settings.timezone
    if settings.user:
        user: dict[str, Any] = {"name": settings.user, "groups": list(GROUPS), "shell": "/bin/bash"}
        if settings.password:
            user |= {"lock_passwd": False, "passwd": settings.password}
        else:  # a user without a password cannot type one for sudo
            user |= {"lock_passwd": True, "sudo": "ALL=(ALL) NOPASSWD:ALL"}
        if settings.ssh_keys:
            user["ssh_authorized_keys"] = list(settings.ssh_keys)
        # Without "default" in this list, the base's own user is not made.
        config |= {"users": [user], "ssh_pwauth": not settings.ssh_keys}
    return "#cloud-config\n" + (to_yaml(config) or "{}\n")


def meta_data(*parts: str) -> str:
    """The file meta-data: an id that changes with the settings (`parts`).

    cloud-init acts once for each id, so a card that has run before takes new settings too.
    """
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return to_yaml({"instance-id": f"edge-centernet-{digest}"})


def network_config(settings: Settings, raspberry_pi_os: bool) -> str:
    """The file network-config: cable by DHCP, and Wi-Fi if there is one. Version 2, as netplan reads it."""
    # optional: the boot does not wait for it, because a board without a network must detect as well.
    always: dict[str, Any] = {"dhcp4": True, "optional": True}
    cable = {"eth0": always} if raspberry_pi_os else {"cable": {"match": {"name": "e*"}, **always}}
    config: dict[str, Any] = {"version": 2, "ethernets": cable}
    if settings.wifi:
        network = {settings.wifi.ssid: {"password": settings.wifi.key}}
        radio = {**always, "regulatory-domain": settings.wifi.country, "access-points": network}
        config["wifis"] = {"wlan0": radio}
    return to_yaml({"network": config})


_WORDS = ("yes", "no", "on", "off", "true", "false", "null")  # not text in YAML, unless they are quoted


def to_yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Block YAML of dictionaries, lists and scalars; strings are quoted as in JSON, which is YAML too.

    Written here because PyYAML is no dependency of the package, and would not give the same bytes always.
    """
    lines = []
    pad = "  " * indent
    for key, item in value.items():
        name = key if re.fullmatch(r"[a-z][\w-]+", key) and key not in _WORDS else _scalar(key)
        if isinstance(item, Mapping) and item:
            lines.append(f"{pad}{name}:\n{to_yaml(item, indent + 1)}")
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            entries = (to_yaml(entry, indent + 2) for entry in item)
            lines.append(f"{pad}{name}:\n" + "".join(f"{pad}  - {entry.lstrip()}" for entry in entries))
        else:
            lines.append(f"{pad}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    """A value on one line, as JSON."""
    return json.dumps(value, ensure_ascii=False)


# Raspberry Pi OS before cloud-init (Bookworm and older)


def network_manager(network: Wifi) -> str:
    """A NetworkManager connection for /etc/NetworkManager/system-connections, which only root may read."""
    # As numbers, because a name may contain anything, also what this format has special meanings for.
    ssid = ";".join(str(byte) for byte in network.ssid.encode()) + ";"
    return (
        "[connection]\nid=preconfigured\ntype=wifi\n\n"
        f"[wifi]\nmode=infrastructure\nssid={ssid}\n\n"
        f"[wifi-security]\nkey-mgmt=wpa-psk\npsk={network.key}\n\n"
        "[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
    )


def command_line(old: str, network: Wifi | None) -> str:
    """The kernel's cmdline.txt with the country of the Wi-Fi, as raspi-config writes it."""
    words = [word for word in old.split() if not word.startswith("cfg80211.ieee80211_regdom=")]
    return " ".join([*words, f"cfg80211.ieee80211_regdom={network.country}"] if network else words) + "\n"
