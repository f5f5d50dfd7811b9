"""What the live page changes: lines, zones and rooms, drawn on the picture, tried out, applied and saved.

    GET  /scene.json    lines, zones and rooms now, in fractions of the picture
    POST /scene.json    count at these from now on, and save them in the camera's file
    POST /count.json    what these would have counted of the paths that the store kept in the last hour
    GET  /paths.json    those paths, to be drawn
    POST /reset.json    begin totals at 0, or say how many are in a room

Tables have the form of a camera's file: {"line": [{"name", "from", "to"}], "zone": [{"name", "points"}],
"room": [{"name", "lines", ...}]}. A table that is sent back may hold "was", the name it had before.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tornado.web import HTTPError, stream_request_body

from edge_centernet.camera_config import ConfigFile, read_config, table_text
from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.history.store import open_store, unpack_points
from edge_centernet.outputs.web.access import Verdict
from edge_centernet.outputs.web.config_file import Change, as_toml, rewrite
from edge_centernet.outputs.web.server import Guarded
from edge_centernet.outputs.web.view import View
from edge_centernet.tracking.geometry import Seen, Size
from edge_centernet.tracking.line_counter import Line, LineCounter, parse_line
from edge_centernet.tracking.room import Room, parse_room
from edge_centernet.tracking.rules import parse_rule
from edge_centernet.tracking.scene import Scene, SceneOptions
from edge_centernet.tracking.state import Event
from edge_centernet.tracking.zone_counter import Zone, ZoneCounter, parse_zone

Tables = dict[str, list[dict[str, Any]]]

KEY_HEADER = "X-Edge-Centernet-Key"
_MAX_BODY = 1 << 16  # bytes of what is drawn
_MAX_POINTS = 64  # of a zone; whether its edges cross is looked at pair by pair
_MAX_SHAPES = 64  # lines and zones together
_HOUR_MS = 3_600_000
# Settings that hold what a page may change, in the order of `_as_tables`, and who reads each.
_KINDS: dict[str, Callable[[str, int], Any]] = {
    "count_line": parse_line,
    "zone": parse_zone,
    "room": parse_room,
    "rule": parse_rule,
}
_MOST_PATHS = 2000  # that are counted, the newest; a second on a small board
_SHOWN_PATHS = 150  # that are drawn
_BESIDE = ("version", "paths", "file", "key")  # what a GET gives beside them, and a program may send back


@dataclass
class Editor:
    """The lines, zones and rooms of a camera, as its page shows and changes them.

    scene: what is counted now.
    apply: takes what is to be counted from now on; raises ConfigError for what does not fit together.
    counting: what counts, for its totals and rooms.
    store: where paths are kept; None if they are not.
    config: the camera's file, into which changes are saved; None if there is none.
    """

    scene: SceneOptions
    apply: Callable[[SceneOptions], None]
    counting: Scene
    store: Path | None = None
    config: ConfigFile | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """What is counted at the start is what the file says."""
        self._saved = self.scene

    @property
    def writable(self) -> bool:
        """Whether changes can be saved: the file, and its folder, where the new one is written first."""
        path = None if self.config is None else self.config.path.resolve()
        return path is not None and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)

    def tables(self, size: Size) -> Tables:
        """All lines, zones and rooms. size: (width, height) of the picture, pixels."""
        return _as_tables(self.scene, size)

    def parse(self, tables: Mapping[str, Any], size: Size) -> SceneOptions:
        """What tables describe. Those that are as `tables` gave them stay what they are, pixels for pixels.

        tables: lists of "line", "zone" and "room"; what is left out stays as it is. Raises ConfigError.
        """
        known = self.tables(size)
        if unknown := sorted(tables.keys() - {*known, *_BESIDE}):
            raise ConfigError(f"unknown {', '.join(unknown)}; expected line, zone and room")
        tables = {key: tables.get(key, known[key]) for key in known}
        lists = list(tables.values())
        if not all(isinstance(ones, list) and all(isinstance(one, dict) for one in ones) for ones in lists):
            raise ConfigError("expected lists of tables: line, zone and room")
        if sum(map(len, lists)) > _MAX_SHAPES:
            raise ConfigError(f"expected at most {_MAX_SHAPES} lines, zones and rooms")

        def read(key: str, old: Sequence[Any], parse: Callable[[str, int], Any]) -> tuple[Any, ...]:
            read: list[Any] = []
            for index, one in enumerate(tables[key], start=1):
                table = {name: value for name, value in one.items() if name != "was"}
                if table in known[key]:
                    read.append(old[known[key].index(table)])
                    continue
                if len(table.get("points", ())) > _MAX_POINTS:
                    raise ConfigError(f"zone {table.get('name')!r}: expected at most {_MAX_POINTS} corners")
                read.append(parse(table_text("what was drawn", key, table), index))
                if isinstance(read[-1], (Line, Zone)) and not read[-1].relative:
                    raise ConfigError(f"{key} {read[-1].name!r}: expected points inside the picture")
            return tuple(read)

        # A rule goes with its zone or room to the new name.
        renamed = _renamed(tables)
        return replace(
            self.scene,
            lines=read("line", self.scene.lines, parse_line),
            zones=read("zone", self.scene.zones, parse_zone),
            rooms=read("room", self.scene.rooms, parse_room),
            rules=tuple(
                replace(rule, where=renamed.get(rule.where, rule.where)) for rule in self.scene.rules
            ),
        )

    def change(self, tables: Mapping[str, Any], size: Size) -> dict[str, Any]:
        """Count at these from now on, and save them if there is a file.

        Returns {"saved": True, "file", "backup"}, or {"saved": False, "why", "text"} with what is to be put
        into the camera's file by hand. Raises ConfigError for what cannot be counted.
        """
        with self._lock:
            wanted = self.parse(tables, size)
            self.apply(wanted)
            renamed = {name: was for was, name in _renamed(tables).items()}
            self.scene = wanted
            text = as_toml(_as_tables(wanted, size))
            if self.config is None:
                return {"saved": False, "why": "", "text": text}
            try:
                backup = self._save(self.config, wanted, renamed, size)
            except ConfigError as error:
                return {"saved": False, "why": str(error), "text": text}
            except OSError as error:
                return {"saved": False, "why": f"{self.config.path}: {error.strerror}", "text": text}
            self._saved = wanted
            return {"saved": True, "file": self.config.path.name, "backup": backup.name}

    def _save(self, config: ConfigFile, wanted: SceneOptions, renamed: Mapping[str, str], size: Size) -> Path:
        """Change the file; where its former content is. Raises ConfigError and OSError."""
        # 1. What the file says now must be what it said: nobody's changes are to be lost.
        common = read_config(config.path)
        own = common if config.camera is None else common["camera"][config.camera]
        inherited = {kind for kind in _KINDS if kind not in own and common.get(kind)}  # by all cameras
        texts = {kind: own.get(kind, common.get(kind, [])) for kind in _KINDS}
        parsed = [tuple(_KINDS[kind](text, i) for i, text in enumerate(texts[kind], 1)) for kind in _KINDS]
        if parsed != [self._saved.lines, self._saved.zones, self._saved.rooms, self._saved.rules]:
            raise ConfigError(
                f"{config.path}: its lines, zones and rooms are not those that detection began with; change "
                "the file by hand, and start again"
            )
        # 2. What is to be set in which of its tables.
        old, new = _as_tables(self._saved, size), _as_tables(wanted, size)
        changes: dict[str, list[Change]] = {}
        for (key, tables), kind in zip(new.items(), _KINDS, strict=False):
            if kind in inherited:
                if not tables:
                    raise ConfigError(f"{config.path}: what holds for all cameras cannot be deleted here")
                changes[key] = [] if tables == old[key] else [(None, table) for table in tables]
                continue
            names = [one["name"] for one in old[key]]
            changes[key] = []
            for table in tables:
                was = renamed.get(table["name"], table["name"])
                if was not in names:
                    changes[key].append((None, table))
                    continue
                index = names.index(was)
                names[index] = ""  # two tables cannot come from one
                kept = old[key][index]
                values = {name: table.get(name) for name in {**kept, **table}}
                values = {name: value for name, value in values.items() if value != kept.get(name)}
                if "=" not in texts[kind][index].partition(";")[0]:  # "line 2" by its place
                    values["name"] = table["name"]
                changes[key].append((index, values))
            changes[key].sort(key=lambda change: (change[0] is None, change[0] or 0))
        if "rule" not in inherited:
            changes["rule"] = [
                (index, {} if rule.where == saved.where else {"where": rule.where})
                for index, (rule, saved) in enumerate(zip(wanted.rules, self._saved.rules, strict=True))
            ]
        return rewrite(config, changes)


def _renamed(tables: Mapping[str, Any]) -> dict[str, str]:
    """New names by those that lines, zones and rooms had before."""
    ones = [one for key in ("line", "zone", "room") for one in tables.get(key, [])]
    return {str(one["was"]): str(one["name"]) for one in ones if one.get("was") and one.get("name")}


def _as_tables(scene: SceneOptions, size: Size) -> Tables:
    """As a camera's file has them, in fractions of the picture."""

    def fractions(points: Sequence[tuple[float, float]]) -> list[list[float]]:
        return [[round(x / size[0], 4), round(y / size[1], 4)] for x, y in points]

    lines = [
        dict(zip(("name", "from", "to"), (line.name, *fractions(line.pixels(size))), strict=True))
        for line in scene.lines
    ]
    zones: list[dict[str, Any]] = [
        {
            "name": zone.name,
            "points": fractions(zone.pixels(size)),
            **({} if zone.queue is None else {"queue": zone.queue}),
            **({"ignore": True} if zone.ignore else {}),
        }
        for zone in scene.zones
    ]
    return {"line": lines, "zone": zones, "room": [_room_table(room) for room in scene.rooms]}


def _room_table(room: Room) -> dict[str, Any]:
    table: dict[str, Any] = {
        "name": room.name,
        "lines": [f"{'-' if way < 0 else ''}{name}" for name, way in room.lines],
    }
    if room.reset is not None:
        table["reset"] = f"{room.reset:%H:%M}"
    if room.zone:
        table["empty"] = room.zone
    if room.missed != Room("", (("", 1),)).missed:
        table["missed"] = room.missed
    return table


# ---- the paths of the last hour ------------------------------------------------------------------


def recount(store: Path, lines: Sequence[Line], zones: Sequence[Zone], size: Size) -> dict[str, Any]:
    """What lines and zones would have counted of the paths of the last hour, by the counters of detection.

    Kept paths have five points a second, so a crossing in a fast zigzag may be missed here.
    Returns {"line": [{"name", "in", "out"}], "zone": [{"name", "entered", ...}], "paths", "minutes"}.
    Raises StoreError.
    """
    counters: list[LineCounter | ZoneCounter] = [*map(LineCounter, lines), *map(ZoneCounter, zones)]
    paths = _kept_paths(store, _MOST_PATHS)
    events: list[Event] = []
    edge = np.array(size) - 0.5  # who is cut off by the edge of the picture stands inside it
    for number, (_, class_name, points) in enumerate(paths):
        feet = np.clip(points[:, 1:3] * np.array(size, np.float32), 0.5, edge).tolist()
        for (seconds, _, _, span), (x, y) in zip(points.tolist(), feet, strict=True):
            seen = [Seen(number, class_name, (x, y), span * size[0])]
            for counter in counters:
                counter.update(seen, (), seconds, size, events)
        for counter in counters:
            counter.update((), (number,), float(points[-1, 0]), size, events)
    minutes = 60 if len(paths) < _MOST_PATHS else round((_now() - paths[-1][0]) / 60_000)
    return {
        "line": [counter.count().as_dict() for counter in counters[: len(lines)]],
        "zone": [counter.count().as_dict() for counter in counters[len(lines) :]],
        "paths": len(paths),
        "minutes": minutes,
    }


def _kept_paths(store: Path, most: int) -> list[tuple[int, str, Any]]:
    """(began, class, points as in `StoredPath`) of the last hour, the newest first."""
    with closing(open_store(store)) as base:
        rows = base.execute(
            "SELECT began, class, points FROM path WHERE ended >= ? ORDER BY ended DESC LIMIT ?",
            (_now() - _HOUR_MS, most),
        ).fetchall()
    return [(began, name, unpack_points(packed)) for began, name, packed in rows]


def _now() -> int:
    return round(time.time() * 1000)


# ---- requests ------------------------------------------------------------------------------------


@stream_request_body
class Writing(Guarded):
    """Base of what takes a body: JSON, from a page of ours or from a program that has the token.

    A page of another site can have the viewer's browser send requests here. It can neither send JSON without
    asking first, which nobody answers, nor hide its origin, nor read the key.
    """

    SUPPORTED_METHODS = ("GET", "POST")
    owner_only = False  # whether a POST needs the key, or the token in the header

    def initialize(self, editor: Editor, view: View) -> None:
        """editor: what is changed. view: where it is shown."""
        self.editor, self.view = editor, view
        self._body = b""

    def prepare(self) -> None:
        """Refuse what is not allowed before a byte of its body is read."""
        super().prepare()
        if self._finished or self.request.method != "POST":
            return
        headers = self.request.headers
        origin = headers.get("Origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != self.request.host:
            self.refuse(403)
        elif headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            self.refuse(415)
        elif not headers.get("Content-Length", "").isdecimal():  # chunks have none
            self.refuse(411)
        elif int(headers["Content-Length"]) > _MAX_BODY:
            self.refuse(413)
        elif self.owner_only and not self._is_owner(only_header=True):
            self.refuse(403)
        else:
            # The rest of the server takes a kilobyte.
            self.request.connection.set_max_body_size(_MAX_BODY)  # type: ignore[union-attr]

    def data_received(self, chunk: bytes) -> None:
        """Collect the body."""
        self._body += chunk

    def json(self) -> dict[str, Any]:
        """The body. Raises HTTPError 400."""
        try:
            value = json.loads(self._body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise HTTPError(400)
        return value

    def size(self) -> Size:
        """(width, height) of the picture. Raises HTTPError 503 before the first one."""
        if (latest := self.view.latest) is None:
            raise HTTPError(503)
        height, width = latest.frame.image.shape[:2]
        return width, height

    def answer(self, value: Any, status: int = 200) -> None:
        """Finish with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    async def elsewhere(self, work: Callable[[], Any]) -> None:
        """Finish with what `work` returns, done on another thread, or with {"error": ...} and status 422."""
        try:
            value = await asyncio.get_running_loop().run_in_executor(None, work)
        except EdgeCenterNetError as error:
            self.answer({"error": str(error)}, 422)
        else:
            self.answer(value)

    def _is_owner(self, only_header: bool = False) -> bool:
        """Whether who asks has shown the token, also where looking needs none."""
        verdict = self.server.guard.identify(
            self.network,
            authorization=self.request.headers.get("Authorization", ""),
            key=self.request.headers.get(KEY_HEADER, ""),
            cookie="" if only_header else self.get_cookie(self.cookie_name) or "",
        )
        return verdict is Verdict.ADMITTED


class _Scene(Writing):
    """The lines, zones and rooms; whoever has shown the token gets the key to change them."""

    owner_only = True

    def get(self) -> None:
        editor = self.editor
        self.answer(
            {
                **editor.tables(self.size()),  # and, as in _BESIDE:
                "version": self.view.version,
                "paths": editor.store is not None,
                "file": editor.config.path.name if editor.config is not None and editor.writable else None,
                "key": self.server.guard.key if self._is_owner() else None,
            }
        )

    async def post(self) -> None:
        await self.elsewhere(functools.partial(self.editor.change, self.json(), self.size()))


class _Count(Writing):
    """What the drawn lines and zones would have counted."""

    async def post(self) -> None:
        if (store := self.editor.store) is None:
            raise HTTPError(404)
        tables, size = self.json(), self.size()

        def count() -> dict[str, Any]:
            drawn = self.editor.parse({**tables, "room": []}, size)
            return recount(store, drawn.lines, drawn.zones, size)

        await self.elsewhere(count)


class _Paths(Writing):
    """Where people walked in the last hour: a list of x and y in fractions of the picture, for each."""

    async def get(self) -> None:
        if (store := self.editor.store) is None:
            raise HTTPError(404)

        def paths() -> list[Any]:
            return [points[:, 1:3].round(3).tolist() for _, _, points in _kept_paths(store, _SHOWN_PATHS)]

        await self.elsewhere(paths)


class _Reset(Writing):
    """Begin all totals at 0, or a room at the number of those who are in it."""

    owner_only = True

    def post(self) -> None:
        wanted = self.json()
        try:
            if "room" in wanted:
                self.editor.counting.reset_room(wanted["room"], wanted.get("inside", 0))
            else:
                self.editor.counting.reset()
        except ConfigError as error:
            self.answer({"error": str(error)}, 422)
        else:
            self.answer({"reset": True})


def handlers(editor: Editor, view: View) -> list[tuple[Any, ...]]:
    """For `View.handlers`."""
    given = {"editor": editor, "view": view}
    return [
        (r"scene\.json", _Scene, given),
        (r"count\.json", _Count, given),
        (r"paths\.json", _Paths, given),
        (r"reset\.json", _Reset, given),
    ]
