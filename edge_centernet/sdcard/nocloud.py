"""What a board is told at its first start: user, keys, network, name. By cloud-init, or a Raspberry Pi OS without.

Secrets are in it as hashes only: a password as SHA-512 crypt, a Wi-Fi passphrase as the key that WPA derives
from it.
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
    """ssid: up to 32 bytes; key: 64 hexadecimal digits, derived by `wifi_key`; country: two letters."""

    ssid: str
    key: str
    country: str


@dataclass(frozen=True)
class Settings:
    """What the owner wants of the board; everything may be missing. password: a crypt hash, "" for none."""

    hostname: str = ""
    user: str = ""
    password: str = ""
    ssh_keys: tuple[str, ...] = ()
    wifi: Wifi | None = None
    timezone: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for what no board would take."""
        if self.hostname and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", self.hostname):
            raise ConfigError(
                f"--hostname: expected small letters, digits and hyphens, got {self.hostname!r}"
            )
        if self.user and (not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", self.user) or self.user == "root"):
            raise ConfigError(f"--user: expected a Linux user name other than root, got {self.user!r}")
        if (self.password or self.ssh_keys) and not self.user:
            raise ConfigError("--ssh-key, --password-file: whose? Give --user NAME too")
        if self.user and not (self.password or self.ssh_keys):
            raise ConfigError(
                f"--user {self.user}: could not log in; give --ssh-key FILE or --password-file FILE too"
            )
        if self.timezone and not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", self.timezone):
            raise ConfigError(f"--timezone: expected a name such as Europe/Berlin, got {self.timezone!r}")

    @property
    def secret(self) -> bool:
        """Whether something in it should not be for everybody's eyes."""
        return bool(self.password or self.wifi)


def password_hash(password: str, salted_by: str) -> str:
    """SHA-512 crypt of a password; one that is a crypt hash already stays as it is.

    The salt is made of `salted_by` (user, board, bundle): equal inputs give equal images, different boards
    other salts. Raises ConfigError for an empty password or one that no login prompt takes.
    """
    if re.fullmatch(r"\$(5|6|y|2[aby])\$[^\s:]+", password):
        return password
    if not password or not password.isprintable():
        raise ConfigError("--password-file: expected a password, or its crypt hash, in the first line")
    salt = base64.b64encode(hashlib.sha256(salted_by.encode()).digest(), altchars=b"./")[:16].decode()
    # By stdin: what stands on a command line, every user of this computer can read.
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
    """Checked, with the key that WPA2 derives (IEEE 802.11, PBKDF2 with the SSID). Raises ConfigError.

    passphrase: 8 to 63 characters, or the 64 hexadecimal digits of a key.
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
    key = hashlib.pbkdf2_hmac("sha1", passphrase.encode(), ssid.encode(), 4096, 32).hex()
    return Wifi(ssid, key, country)


def public_keys(text: str, source: str) -> tuple[str, ...]:
    """The public ssh keys in a file's text. Raises ConfigError, and never shows it, for a private one."""
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
    """What cloud-init does once: user, keys, name, time zone."""
    config: dict[str, Any] = {}
    if settings.hostname:
        config |= {"hostname": settings.hostname, "manage_etc_hosts": True}
    if settings.timezone:
        config["timezone"] = settings.timezone
    if settings.user:
        user: dict[str, Any] = {"name": settings.user, "groups": list(GROUPS), "shell": "/bin/bash"}
        if settings.password:
            user |= {"lock_passwd": False, "passwd": settings.password}
        else:  # who has no password cannot give one to sudo
            user |= {"lock_passwd": True, "sudo": "ALL=(ALL) NOPASSWD:ALL"}
        if settings.ssh_keys:
            user["ssh_authorized_keys"] = list(settings.ssh_keys)
        config |= {"users": [user], "ssh_pwauth": not settings.ssh_keys}
    return "#cloud-config\n" + (to_yaml(config) or "{}\n")


def meta_data(*parts: str) -> str:
    """Who this is: another id for other settings, so that cloud-init acts on them on a card that has run before."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return to_yaml({"instance-id": f"edge-centernet-{digest}"})


def network_config(settings: Settings, raspberry_pi_os: bool) -> str:
    """Cable by DHCP, waited for by nobody; Wi-Fi if asked. Version 2, which netplan takes as it is."""
    always: dict[str, Any] = {"dhcp4": True, "optional": True}
    cable = {"eth0": always} if raspberry_pi_os else {"cable": {"match": {"name": "e*"}, **always}}
    config: dict[str, Any] = {"version": 2, "ethernets": cable}
    if settings.wifi:
        network = {settings.wifi.ssid: {"password": settings.wifi.key}}
        radio = {**always, "regulatory-domain": settings.wifi.country, "access-points": network}
        config["wifis"] = {"wlan0": radio}
    return to_yaml({"network": config})


_WORDS = ("yes", "no", "on", "off", "true", "false", "null")  # YAML takes them for something else than text


def to_yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Block YAML of dictionaries, lists and scalars. Strings are quoted as in JSON, which is YAML."""
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
    """On one line; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


# Raspberry Pi OS before cloud-init (Bookworm and older)


def network_manager(network: Wifi) -> str:
    """NetworkManager's file for the Wi-Fi, /etc/NetworkManager/system-connections/*.nmconnection, readable by root."""
    ssid = ";".join(str(byte) for byte in network.ssid.encode()) + ";"
    return (
        "[connection]\nid=preconfigured\ntype=wifi\n\n"
        f"[wifi]\nmode=infrastructure\nssid={ssid}\n\n"
        f"[wifi-security]\nkey-mgmt=wpa-psk\npsk={network.key}\n\n"
        "[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
    )


def command_line(old: str, network: Wifi | None) -> str:
    """cmdline.txt with the radio's country, which is what raspi-config writes there."""
    words = [word for word in old.split() if not word.startswith("cfg80211.ieee80211_regdom=")]
    return " ".join([*words, f"cfg80211.ieee80211_regdom={network.country}"] if network else words) + "\n"
