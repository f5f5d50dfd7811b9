"""Signatures of bundles by OpenSSH (`ssh-keygen -Y`), which every board that is reached by ssh can verify.

docs/decisions/0019-openssh-signatures.md explains why not by minisign.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edge_centernet.deploy.agent import NAMESPACE, SIGNER
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.files import home_path

DEFAULT_KEY = Path("~/.config/edge-centernet/bundle_ed25519")


def signing_key(given: Path | None) -> tuple[Path, bool]:
    """The file of the private key, `given` or the default one, and whether it was made just now.

    The default key is made at its first use. Raises ConfigError if `given` does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise ConfigError(
                f"{given}: expected a private ssh key to sign with, got no such file; "
                "make one with ssh-keygen"
            )
        return given, False
    key = home_path(DEFAULT_KEY)
    if key.is_file():
        return key, False
    # Without a passphrase, because scripts make bundles too; a key that is given may have one.
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", SIGNER, "-f", str(key))
    return key, True


def sign(content: bytes, key: Path, namespace: str = NAMESPACE) -> bytes:
    """Sign the content; returns the signature as text (OpenSSH's PROTOCOL.sshsig).

    With an ed25519 key, equal content gives equal bytes. namespace: what the signature is valid for, so that
    one of a release does not pass for one of a bundle.
    """
    return _ssh_keygen("-Y", "sign", "-q", "-f", str(key), "-n", namespace, stdin=content)


def signers_line(key: Path, namespace: str = NAMESPACE) -> str:
    """The public half of a key as boards pin it: a line of allowed_signers, valid for `namespace` only."""
    public = _ssh_keygen("-y", "-f", str(key)).decode().split()
    return f'{SIGNER} namespaces="{namespace}" {public[0]} {public[1]}\n'


def as_signers(path: Path) -> str:
    """The text of a file of trusted signers; one is made of a public ssh key (.pub).

    Raises ConfigError for a file that is neither.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the signers: {error}") from None
    words = text.split()
    if len(words) >= 2 and words[0].startswith(("ssh-", "ecdsa-", "sk-")):
        return f'{SIGNER} namespaces="{NAMESPACE}" {words[0]} {words[1]}\n'
    if "PRIVATE KEY" in text or not any(line.startswith(SIGNER) for line in text.splitlines()):
        raise ConfigError(
            f"{path}: expected a public ssh key (.pub) or lines that begin with {SIGNER!r}, got neither"
        )
    return text


def _ssh_keygen(*arguments: str, stdin: bytes = b"") -> bytes:
    if shutil.which("ssh-keygen") is None:
        raise MissingDependency("signing needs ssh-keygen: apt-get install openssh-client")
    # Its stdin is the content to sign, or empty: it asks for a passphrase at the terminal itself.
    result = subprocess.run(["ssh-keygen", *arguments], input=stdin, capture_output=True, check=False)
    if result.returncode:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise ConfigError(f"ssh-keygen: {lines[-1]}; expected an ssh key that can sign (ed25519)")
    return result.stdout
