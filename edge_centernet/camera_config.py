"""The settings of a camera, or of several, in a file, so that a service needs one argument.

Every option of `detect` may stand there under its own name; lines and zones are tables. Several cameras are
tables, too: [[camera]] has the options that are its own, and what stands above holds for all. Options on the
command line take precedence. TOML, because it allows comments and is part of Python (from 3.11 on).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge_centernet.classes import did_you_mean
from edge_centernet.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1 << 20  # a path to a video by mistake is refused, and not read into memory
# ${NAME}, with a second $ in front for the same characters as they are
_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)(\}?)")
_CREDENTIALS = "CREDENTIALS_DIRECTORY"  # where systemd puts what LoadCredential= names
# A table's name in a file -> the option, and the table's keys that hold its points.
_TABLES = {
    "line": ("count_line", "from", "to"),
    "zone": ("zone", "points"),
    "room": ("room",),
    "rule": ("rule",),
    "webhook": ("webhook",),
}
# What a [[webhook]] has, and the JSON object that --webhook takes as well as a URL.
_WEBHOOK = {
    "url": str,
    "secret": str,
    "name": str,
    "events": list,
    "places": list,
    "snapshot": bool,
    "plain": bool,
    "ca_file": str,
}


@dataclass(frozen=True)
class Settings:
    """The values of the options of `detect`: a field for each, of the same name (`format_name` is --format).

    Its fields, but for `files`, are also the list of what may stand in a camera's file. The command line
    takes these options, and `bundle` checks a board's first configuration against them.
    files: several files and folders that are one list of images; `source` and `camera` are None then.
    format_name: None for JSON Lines, which on a terminal become lines for people.
    """

    files: tuple[str, ...]
    source: str | None
    camera: str | None
    recursive: bool
    size: str | None
    fps: float | None
    fourcc: str | None
    pace: str | None
    loop: bool
    frozen_after: float
    wait: bool
    model: str
    runtime: str
    device: str
    threads: int | None
    threshold: float | None
    max_detections: int
    classes: str | None
    tiles: str | None
    track: bool
    count_line: tuple[str, ...]
    zone: tuple[str, ...]
    room: tuple[str, ...]
    rule: tuple[str, ...]
    counts: Path | None
    presence: Path | None
    floor: str | None
    plan: Path | None
    store: Path | None
    keep: float
    recorded: str | None
    events_dir: Path | None
    events_keep: float
    events_max: int
    clips: float | None
    blur: str | None
    out: Path | None
    format_name: str | None
    save: bool | None
    serve: str | None
    token: str | None
    mqtt: str | None
    mqtt_password_file: Path | None
    mqtt_ca_file: Path | None
    webhook: tuple[str, ...]
    webhook_queue: Path
    name: str | None
    log_file: Path | None


@dataclass(frozen=True)
class ConfigFile:
    """Where a camera's settings are written.

    camera: which of the [[camera]] tables has its own, from 0; None for a file without such tables.
    """

    path: Path
    camera: int | None = None


# An option's name in a file where it is not the field's: a field `format` would hide Python's function.
_IN_FILES = {"format_name": "format"}
_FIELDS = {_IN_FILES.get(field.name, field.name): field.name for field in fields(Settings)}
del _FIELDS["files"]  # a service has one source
# What a process has once, however many cameras it reads.
_SHARED = ("model", "runtime", "device", "threads", "serve", "token", "log_file")
# Files and folders of which each camera needs its own.
_OWN_PATHS = ("counts", "presence", "plan", "store", "webhook_queue", "events_dir", "out")


def read_config(path: Path, variables: bool = True) -> dict[str, Any]:
    """The options in `path`, by field of Settings (`count_line`, not `--count-line`).

    Values come back as the command line takes them: texts and booleans, and a list of texts as "A,B". In a
    text, ${NAME} stands for the environment variable, or for the file of this name among systemd's
    credentials; $${NAME} stands for itself. Of [[camera]] tables "camera" is a list of such dictionaries.
    variables: whether to put them in; False where another computer has them.
    Raises ConfigError for a file that cannot be read, is not TOML, or holds a name that is no option or a
    variable that is not set. It never shows a variable's value.
    """
    # 1. The file.
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: expected a configuration of at most {_MAX_BYTES} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from None
    # 2. Its entries, and those of each camera where they are tables.
    cameras = document.get("camera")
    if not isinstance(cameras, list):
        return _options(str(path), document, variables)
    where = f"{path}: [[camera]]"
    if not cameras or not all(isinstance(table, dict) for table in cameras):
        raise ConfigError(f"{path}: camera: expected one camera, or tables that begin with [[camera]]")
    options = _options(
        str(path), {key: value for key, value in document.items() if key != "camera"}, variables
    )
    tables = [_options(where, table, variables) for table in cameras]
    for table in tables:
        if shared := [name for name in _SHARED if name in table]:
            raise ConfigError(
                f"{where}: {shared[0]} holds for all cameras; write it above the first [[camera]]"
            )
        if ("camera" in table) == ("source" in table):
            raise ConfigError(f'{where}: expected a camera in each, such as camera = "/dev/video0"')
    if "name" in options and len(tables) > 1:
        raise ConfigError(f"{path}: name: expected it in each [[camera]], not for all of them")
    # Here, and not when it starts: a bundle must not carry to a board what the board refuses.
    check_names(tables)
    return {**options, "camera": tables}


def _options(where: str, document: Mapping[str, Any], variables: bool) -> dict[str, Any]:
    """Entries as if they had been typed: the command line's own checks then apply to a file, too."""
    options: dict[str, Any] = {}
    for key, value in document.items():
        if key in _TABLES:
            if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
                got = type(value).__name__  # not the value, which may be an address with a secret in it
                raise ConfigError(f"{where}: {key}: expected tables that begin with [[{key}]], got {got}")
            if key == "webhook":
                options["webhook"] = [_as_webhook(where, table, variables) for table in value]
                continue
            option = _TABLES[key][0]
            texts = [table_text(where, key, table) for table in value]
            options.setdefault(option, []).extend(
                _with_variables(text, f"{where}: [[{key}]]") if variables else text for text in texts
            )
            continue
        if key == "floor" and isinstance(value, dict):
            text = _as_floor(where, value)
            options[key] = _with_variables(text, f"{where}: [{key}]") if variables else text
            continue
        name = key.replace("-", "_")
        if name not in _FIELDS:
            # The list is long: where one of it is similar, that one alone is the help.
            tables = [f"[[{table}]]" for table in _TABLES]
            near = did_you_mean(key, [*sorted(_FIELDS), *_TABLES])
            every = f"; expected one of {', '.join(tables + sorted(_FIELDS))}"
            raise ConfigError(f"{where}: unknown setting {key!r}{near or every}")
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = ",".join(value)
        elif not isinstance(value, (str, int, float)):  # int: bool too
            raise ConfigError(
                f"{where}: {key}: expected a text, a number, true or false, or a list of texts, got {value!r}"
            )
        # Last, so that no message above shows what a variable holds.
        if isinstance(value, str) and variables:
            value = _with_variables(value, f"{where}: {key}")
        options[_FIELDS[name]] = value if isinstance(value, bool) else str(value)
    return options


def slug(name: str) -> str:
    """The name in topics, addresses and names of files: of a to z, digits and dashes, never empty.

    Six digits of a hash are added where a name of other letters would lose what tells it apart.
    """
    whole = unicodedata.normalize("NFC", name).replace("…", "")  # which stands for a hidden part of a URL
    short = re.sub(r"[^0-9a-z]+", "-", whole.lower()).strip("-")
    if not short or not whole.isascii():
        short = f"{short or 'camera'}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"
    return short


def check_names(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of several cameras: as given, or "camera 1", "camera 2" by their places.

    Raises ConfigError for two whose `slug` is the same.
    """
    names = [str(table.get("name") or f"camera {i + 1}") for i, table in enumerate(tables)]
    slugs = [slug(name) for name in names]
    for i, one in enumerate(slugs):
        if one in slugs[:i]:
            raise ConfigError(
                f"[[camera]]: expected a different name for each camera, got {names[slugs.index(one)]!r} and "
                f"{names[i]!r}"
            )
    return names


def each_camera(common: Settings, tables: Sequence[Mapping[str, Any]]) -> list[Settings]:
    """The settings of several cameras, each with a name of its own.

    A path or topic prefix that holds for all gets each camera's name in it: counts.json becomes
    counts-door.json, a folder out becomes out/door, mqtt://broker/shop becomes mqtt://broker/shop/door.
    common: options of all. tables: for each camera the fields of Settings that are its own.
    Raises ConfigError for two cameras of one name, or with one path for both.
    """
    if len(tables) == 1:
        return [replace(common, **tables[0])]
    cameras: list[Settings] = []
    for name, table in zip(check_names(tables), tables, strict=True):
        apart: dict[str, Any] = {}
        for field in _OWN_PATHS:
            path: Path | None = getattr(common, field)
            if path is not None:
                apart[field] = path / slug(name) if field in ("events_dir", "out") else beside(path, name)
        if common.mqtt is not None and re.match(r"\w+://[^/]+/+[^/]", common.mqtt):
            apart["mqtt"] = f"{common.mqtt.rstrip('/')}/{slug(name)}"
        cameras.append(replace(common, **{**apart, **table, "name": name}))
    for field in _OWN_PATHS:
        paths = [path for camera in cameras if (path := getattr(camera, field)) is not None]
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise ConfigError(f"{field}: expected a path of its own for each camera, got {twice[0]} twice")
    own = [table["mqtt"].rstrip("/") for table in tables if table.get("mqtt")]
    if len(set(own)) < len(own):  # not shown: it may hold a password
        raise ConfigError(
            "mqtt: expected a URL of its own in each [[camera]], got one twice; or write it above them"
        )
    return cameras


def beside(path: Path, name: str) -> Path:
    """The path of a camera's own file, with its name in it: counts.json becomes counts-door.json."""
    return path.with_name(f"{path.stem}-{slug(name)}{path.suffix}")


def table_text(where: str, key: str, table: Mapping[str, Any]) -> str:
    """A table of lines, zones, rooms or rules as the command line has it, for `parse_line` and its like.

    where: the file, or who else gave it, for errors. Raises ConfigError.
    """
    if points := _TABLES[key][1:]:
        return _as_option(where, key, table, points)
    return (_as_rule if key == "rule" else _as_room)(where, table)


def _as_option(where: str, key: str, table: Mapping[str, Any], points: Sequence[str]) -> str:
    """A table in the form of --count-line or --zone: NAME=x1,y1,x2,y2[;queue|;ignore]."""
    expected = {"name", *points, *(("queue", "ignore") if key == "zone" else ())}
    if unknown := set(table) - expected:
        known = ", ".join(sorted(expected))
        raise ConfigError(f"{where}: [[{key}]]: unknown {', '.join(sorted(unknown))}; expected {known}")
    text, name = _numbers(f"{where}: [[{key}]]", table, points), table.get("name")
    queue, ignore = table.get("queue", False), table.get("ignore", False)
    if not isinstance(queue, (int, float)):  # int: bool too
        raise ConfigError(
            f"{where}: [[{key}]]: expected queue = true, or seconds from which somebody waits, got {queue!r}"
        )
    if not isinstance(ignore, bool):
        raise ConfigError(f"{where}: [[{key}]]: expected ignore = true or false, got {ignore!r}")
    if queue is not False:
        text += ";queue" if queue is True else f";queue={queue}"
    if ignore:
        text += ";ignore"
    return f"{name}={text}" if name else text


def _numbers(where: str, table: Mapping[str, Any], points: Sequence[str]) -> str:
    """The numbers of these keys of a table, in their order: x1,y1,x2,y2."""
    flat: list[Any] = []
    for point in points:
        value = table.get(point)
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected {point} = a list of numbers, got {value!r}")
        for number in value:
            flat.extend(number if isinstance(number, list) else [number])  # [0, 1] and [[0, 1], [1, 1]]
    if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in flat):
        raise ConfigError(f"{where}: expected numbers, got {flat!r}")
    return ",".join(str(number) for number in flat)


def _as_floor(where: str, table: Mapping[str, Any]) -> str:
    """A table in the form of --floor: x1,y1,...=m1,n1,..."""
    if unknown := set(table) - {"points", "metres"}:
        raise ConfigError(f"{where}: [floor]: unknown {', '.join(sorted(unknown))}; expected metres, points")
    return "=".join(_numbers(f"{where}: [floor]", table, [key]) for key in ("points", "metres"))


def _as_room(where: str, table: Mapping[str, Any]) -> str:
    """A table in the form of --room: NAME=LINE,-LINE;reset=HH:MM;empty=ZONE;missed=0.03."""
    lines, rest = table.get("lines"), {key: table[key] for key in table if key not in ("name", "lines")}
    known = set(rest) <= {"reset", "empty", "missed"} and all(
        isinstance(one, (str, float)) for one in rest.values()
    )
    if not known or not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ConfigError(
            f'{where}: [[room]]: expected name, lines = ["door", "-exit"] and, if wanted, reset = "04:00", '
            f"empty = a zone's name and missed = 0.03; got {dict(table)!r}"
        )
    text = ";".join([",".join(lines), *(f"{key}={value}" for key, value in rest.items())])
    return f"{table['name']}={text}" if "name" in table else text


def _as_rule(where: str, table: Mapping[str, Any]) -> str:
    """A table in the form of --rule: NAME=KIND,WHERE,LIMIT;for=SECONDS;days=mon-fri."""
    words = {"name": str, "kind": str, "where": str, "hours": str, "days": str, "classes": list}
    numbers = {"limit", "for", "clear", "hold"}
    for key, value in table.items():
        kind = words.get(key, (int, float))
        wrong = isinstance(value, bool) or not isinstance(value, kind)
        if (key not in words and key not in numbers) or wrong:
            raise ConfigError(
                f"{where}: [[rule]]: expected name, kind, where, hours and days as texts, limit, for, clear "
                f"and hold as numbers, and classes as a list of texts; got {key} = {value!r}"
            )
    if missing := [key for key in ("kind", "where", "limit") if key not in table]:
        raise ConfigError(f"{where}: [[rule]]: expected kind, where and limit, missing {', '.join(missing)}")
    head = f"{table['kind']},{table['where']},{table['limit']}"
    settings = [
        f"{key}={','.join(map(str, table[key])) if key == 'classes' else table[key]}"
        for key in ("for", "clear", "hold", "hours", "days", "classes")
        if key in table
    ]
    text = ";".join([head, *settings])
    return f"{table['name']}={text}" if "name" in table else text


def _as_webhook(where: str, table: Mapping[str, Any], variables: bool) -> str:
    """A table as a JSON object. Variables are put in before, so that whatever they hold stays one value."""
    where = f"{where}: [[webhook]]"
    check_webhook(table, where)
    if variables:
        table = {
            key: _with_variables(value, f"{where}: {key}") if isinstance(value, str) else value
            for key, value in table.items()
        }
    return json.dumps(table)


def check_webhook(table: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError unless the names and types are those of a webhook; no value is shown.

    where: for the error.
    """
    if unknown := sorted(set(table) - set(_WEBHOOK)):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; expected {', '.join(sorted(_WEBHOOK))}")
    for key, value in table.items():
        expected = _WEBHOOK[key]
        items = value if expected is list and isinstance(value, list) else []
        if not isinstance(value, expected) or not all(isinstance(item, str) for item in items):
            words = {str: "a text", bool: "true or false", list: "a list of texts"}[expected]
            raise ConfigError(f"{where}: {key}: expected {words}, got {type(value).__name__}")
    if "url" not in table:
        raise ConfigError(f'{where}: expected url = "https://..."')


def _with_variables(text: str, where: str) -> str:
    """The text with each ${NAME} replaced. where: the file and the key, for errors."""

    def look_up(match: re.Match[str]) -> str:
        escaped, name, end = match.groups()
        if escaped:
            return match[0][1:]
        # The names that systemd takes: none is a path out of the folder. What stands here may be a part of a
        # password, and is not shown.
        if not end or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
            raise ConfigError(
                f"{where}: expected the name of a variable after ${{, and }} behind it; "
                "write $${ where you mean the characters ${"
            )
        if name in os.environ:
            return os.environ[name]
        folder = os.environ.get(_CREDENTIALS, "")
        try:
            if folder:
                return (Path(folder) / name).read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"{where}: cannot read the credential {name}: {reason}") from None
        raise ConfigError(
            f"{where}: ${{{name}}} is not set: expected an environment variable of this name, or a file of "
            f"this name in ${_CREDENTIALS} (systemd's LoadCredential=)"
        )

    return _VARIABLE.sub(look_up, text)
