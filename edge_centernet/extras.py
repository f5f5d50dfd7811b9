"""Optional packages: what pip installs for an extra, into the Python that runs.

Never by this package's own name: it is in no index, where somebody else could take it.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
import sysconfig
from pathlib import Path
from urllib.parse import unquote, urlsplit

_NAME = "edge-centernet"
_TORCH_CPU = "https://download.pytorch.org/whl/cpu"
_CHECKOUT = Path(__file__).parents[1]  # where this is one
_CLAUSE = re.compile(r'(extra|platform_machine|python_version) (==|!=|<|>=) "([^"]*)"')


def externally_managed() -> bool:
    """Whether this is a system's own Python that takes no packages from pip, as PEP 668 marks it."""
    return sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()


def pip_command(*requirements: str, python: str | None = None, managed: bool | None = None) -> str:
    """The shell command that installs requirements.

    python: the interpreter to install into; the running one unless given. managed: see `externally_managed`.
    """
    words = ["-m pip install", *map(shlex.quote, requirements)]
    if externally_managed() if managed is None else managed:
        return " ".join(["python3 -m venv --system-site-packages .venv && .venv/bin/python", *words])
    return " ".join([shlex.quote(python or sys.executable or "python3"), *words])


def command_for(extra: str) -> str:
    """The shell command that installs the packages of an extra for the running interpreter.

    From where this package came from, if that is still there; else each package by its name.
    """
    try:
        source = _source()
        return pip_command(
            *(requirements_of(extra) if source is None else (*source[:-1], f"{source[-1]}[{extra}]"))
        )
    except ModuleNotFoundError:  # a checkout that was never installed: from there, by its path
        return pip_command(f"{_CHECKOUT}[{extra}]")


def _source() -> tuple[str, ...] | None:
    """What pip was told to install this package from: a wheel or folder, "-e" before one that is edited.

    Source: PEP 610. None where that was no file of this computer, or it is gone. Raises ModuleNotFoundError
    where this package is not installed.
    """
    from importlib import metadata  # here: it loads parsers of e-mail, and most runs never need it

    text = metadata.distribution(_NAME).read_text("direct_url.json")
    if text is None:  # of an index, or run in a checkout whose build left metadata there
        return (str(_CHECKOUT),) if (_CHECKOUT / "setup.cfg").exists() else None
    origin = json.loads(text)
    path = Path(unquote(urlsplit(origin["url"]).path))
    if not origin["url"].startswith("file:") or not path.exists():
        return None
    return ("-e", str(path)) if origin.get("dir_info", {}).get("editable") else (str(path),)


def without_gpu(extra: str) -> str:
    """What to do before `command_for` on a computer without a GPU; "" for an extra without PyTorch.

    PyPI's PyTorch for Linux brings gigabytes of CUDA, which pip does not get where PyTorch is there already.
    """
    if extra != "train":
        return ""
    return f"; without a GPU, first: {pip_command('torch', '--index-url', _TORCH_CPU)}"


def requirements_of(extra: str) -> list[str]:
    """What pip is to install here for an extra, with the extras that this one names.

    Raises ModuleNotFoundError where this package is not installed.
    """
    from importlib import metadata  # here: it loads parsers of e-mail, and most runs never need it

    found: dict[str, None] = {}
    for line in metadata.requires(_NAME) or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not _CLAUSE.search(marker) or not all(_holds(clause, extra) for clause in marker.split(" and ")):
            continue
        if inner := re.fullmatch(rf"{_NAME}\[([^\]]*)\]", requirement):
            for name in inner[1].split(","):
                found.update(dict.fromkeys(requirements_of(name.strip())))
        elif "extra" in marker:
            found[requirement] = None
    return list(found)


def _holds(clause: str, extra: str) -> bool:
    """Whether one comparison of a marker is true here; setup.cfg has no others than these."""
    if (match := _CLAUSE.fullmatch(clause.strip())) is None:
        raise ValueError(f"expected a marker such as {_CLAUSE.pattern}, got {clause!r}")
    variable, operator, wanted = match.groups()
    if variable == "python_version":
        parts = tuple(int(part) for part in wanted.split("."))
        older = sys.version_info[: len(parts)] < parts
        return older if operator == "<" else not older
    return ((extra if variable == "extra" else platform.machine()) == wanted) == (operator == "==")
