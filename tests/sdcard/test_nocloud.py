"""The settings of a board's first start: YAML that means what was given, and secrets as hashes that fit."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_centernet.errors import ConfigError
from edge_centernet.sdcard import nocloud
from edge_centernet.sdcard.nocloud import Settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdMBzPbnQuk3I4ZU0mwQOjh8JdNMlVVROa9FKRid anna@laptop"
ODD = [
    "plain",
    'quo"te',
    "it's",
    "a: b",
    "#5",
    "- x",
    "yes",
    "null",
    "12",
    "{a}",
    "Café ☕ 5G",
    "back\\slash",
    "%",
    "*",
    "&",
]


@pytest.mark.parametrize("text", ODD)
def test_any_network_name_comes_through(text: str) -> None:
    """What YAML has special meanings for is read back as the name that was given."""
    settings = Settings(wifi=nocloud.wifi(text, "12345678", "DE"))
    network = yaml.safe_load(nocloud.network_config(settings, raspberry_pi_os=True))["network"]
    assert list(network["wifis"]["wlan0"]["access-points"]) == [text]
    assert nocloud.network_manager(settings.wifi).split("ssid=")[1].split("\n")[0] == "".join(  # type: ignore[arg-type]
        f"{byte};" for byte in text.encode()
    )


def test_user_data_says_what_was_asked() -> None:
    """Read back by a YAML parser, it is just this."""
    settings = Settings("door", "anna", "", (KEY, KEY + "2"), None, "Europe/Berlin")
    text = nocloud.user_data(settings)
    assert text.startswith("#cloud-config\n")
    assert yaml.safe_load(text) == {
        "hostname": "door",
        "manage_etc_hosts": True,
        "timezone": "Europe/Berlin",
        "users": [
            {
                "name": "anna",
                "groups": list(nocloud.GROUPS),
                "shell": "/bin/bash",
                "lock_passwd": True,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [KEY, KEY + "2"],
            }
        ],
        "ssh_pwauth": False,
    }


def test_without_settings_the_base_decides() -> None:
    """Still a configuration, though an empty one."""
    assert nocloud.user_data(Settings()) == "#cloud-config\n{}\n"


def test_cable_is_used_and_waited_for_by_nobody() -> None:
    """A board without a network must detect as well."""
    assert yaml.safe_load(nocloud.network_config(Settings(), raspberry_pi_os=False)) == {
        "network": {
            "version": 2,
            "ethernets": {"cable": {"match": {"name": "e*"}, "dhcp4": True, "optional": True}},
        }
    }


def test_other_settings_are_another_instance() -> None:
    """A card that has run before acts on new settings."""
    one, two = (yaml.safe_load(nocloud.meta_data(text, "x"))["instance-id"] for text in ("a", "b"))
    assert one != two
    assert one == yaml.safe_load(nocloud.meta_data("a", "x"))["instance-id"]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            "door",
            "anna",
            "$6$salt$hash",
            (KEY,),
            nocloud.wifi('A "b": c', "12345678", "DE"),
            "Europe/Berlin",
        ),
        Settings(user="anna", ssh_keys=(KEY,)),
    ],
)
def test_cloud_init_accepts_it(settings: Settings, tmp_path: Path) -> None:
    """By the schema of cloud-init itself, where that is installed."""
    if shutil.which("cloud-init") is None:
        pytest.skip("no cloud-init: apt install cloud-init")
    file = tmp_path / "user-data"
    file.write_text(nocloud.user_data(settings))
    done = subprocess.run(["cloud-init", "schema", "-c", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wifi_key_is_that_of_the_standard() -> None:
    """The test vectors of IEEE 802.11i, annex H.4; a key is taken as it is."""
    assert nocloud.wifi("IEEE", "password", "US").key == (
        "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    )
    assert nocloud.wifi("ThisIsASSID", "ThisIsAPassword", "US").key == (
        "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"
    )
    assert nocloud.wifi("any", "AB" * 32, "US").key == "ab" * 32


def test_password_fits_its_hash() -> None:
    """The C library's crypt, which checks logins, makes the same hash of this password and of no other."""
    try:
        library = ctypes.CDLL("libcrypt.so.1")
    except OSError:
        pytest.skip("no libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    for password in ("correct horse", "pä$$wörd ☕", "-stdin"):
        made = nocloud.password_hash(password, "anna door")
        assert made.startswith("$6$")
        assert library.crypt(password.encode(), made.encode()) == made.encode()
        assert library.crypt(b"other", made.encode()) != made.encode()


def test_salt_depends_on_the_board_and_not_on_the_password() -> None:
    """Equal inputs give equal images; the salt gives no quick way to try passwords."""
    salts = [nocloud.password_hash(word, board).split("$")[2] for word in ("a", "b") for board in ("x", "y")]
    assert salts[0] == salts[2] != salts[1] == salts[3]


def test_hash_is_taken_as_it_is() -> None:
    """The file may hold what mkpasswd made."""
    assert nocloud.password_hash("$y$j9T$abc$def", "") == "$y$j9T$abc$def"


def test_keys_are_read_with_comments_and_options() -> None:
    """A file as ~/.ssh/authorized_keys is."""
    assert nocloud.public_keys(f'# mine\n{KEY}\n\nfrom="10.0.0.1" {KEY}\n', "k") == (
        KEY,
        f'from="10.0.0.1" {KEY}',
    )


def _wrong(name: str, **more: Any) -> Any:
    return pytest.param(more, name, id=name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        _wrong("--hostname: expected small letters", hostname="Door_1"),
        _wrong("--user: expected a Linux user name other than root", user="root", ssh_keys=(KEY,)),
        _wrong("--user: expected a Linux user name", user="An na", ssh_keys=(KEY,)),
        _wrong("whose", ssh_keys=(KEY,)),
        _wrong("could not log in", user="anna"),
        _wrong("--timezone: expected a name", timezone="../../etc/passwd"),
    ],
)
def test_settings_no_board_would_take_are_refused(arguments: dict[str, Any], says: str) -> None:
    """At the door, with the option's name."""
    with pytest.raises(ConfigError, match=says):
        Settings(**arguments)


@pytest.mark.parametrize(
    ("ssid", "passphrase", "country", "says"),
    [
        ("", "12345678", "DE", "--wifi: expected a network name of 1 to 32 bytes, got 0"),
        ("ü" * 17, "12345678", "DE", "got 34"),
        ("net", "1234567", "DE", "--wifi-password-file: expected 8 to 63"),
        ("net", "pässwörter", "DE", "--wifi-password-file: expected 8 to 63 ASCII"),
        ("net", "12345678", "", "--wifi-country: expected two letters"),
    ],
)
def test_impossible_wifi_is_refused(ssid: str, passphrase: str, country: str, says: str) -> None:
    """And the passphrase is not in the message."""
    with pytest.raises(ConfigError, match=says) as caught:
        nocloud.wifi(ssid, passphrase, country)
    assert passphrase not in str(caught.value)


def test_private_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    """Who gives the wrong file of the pair is told so."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    private = (tmp_path / "id").read_text()
    with pytest.raises(
        ConfigError, match=r"is a private key, which stays with you; give the file that ends with \.pub"
    ) as caught:
        nocloud.public_keys(private, "id")
    assert private.splitlines()[1] not in str(caught.value)
    with pytest.raises(ConfigError, match="expected public ssh keys"):
        nocloud.public_keys("hello\n", "id")


def test_country_is_written_once() -> None:
    """cmdline.txt stays one line, with the radio's country at its end."""
    old = "console=tty1 root=PARTUUID=1-02 rootwait cfg80211.ieee80211_regdom=US\n"
    new = nocloud.command_line(old, nocloud.wifi("net", "12345678", "DE"))
    assert new == "console=tty1 root=PARTUUID=1-02 rootwait cfg80211.ieee80211_regdom=DE\n"


def test_passwords_are_on_no_command_line() -> None:
    """What the hashing program is called with, a tracing shell in its place would show."""
    code = (
        "import subprocess, sys\n"
        "from edge_centernet.sdcard import nocloud\n"
        "sys.addaudithook(lambda event, args: event == 'subprocess.Popen' and print(args[1]))\n"
        "nocloud.password_hash('correct horse', 'x')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "passwd" in done.stdout
    assert "correct" not in done.stdout
