"""What Home Assistant needs to show a camera's counts by itself: MQTT device discovery, since 2024.11.

One retained message on homeassistant/device/ID/config announces the device with all its entities
(https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery). They all read the one state topic; the
counts in it, which `counts_record` makes, stand here beside the templates that read them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_centernet import __version__
from edge_centernet.tracking.state import LineCount, QueueCount, RoomCount, RuleState, Tally, ZoneCount

# Of a model that knows more, each class is announced but disabled until somebody enables it: 80 sensors would
# bury the counts that the camera is there for.
_CLASSES_SHOWN = 8

Entity = dict[str, Any]


def node_id(prefix: str) -> str:
    """A name for Home Assistant's topics, of letters, digits and underscores; each topic prefix has its own.

    The hash keeps apart prefixes that differ only in other characters, such as "hall/door" and "hall-door".
    """
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', prefix)[:40]}_{hashlib.sha256(prefix.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Places:
    """Names of all that is counted at, so that it is announced before the first frame.

    queues: those of the zones that are one.
    """

    lines: Sequence[str] = ()
    zones: Sequence[str] = ()
    rooms: Sequence[str] = ()
    queues: Sequence[str] = ()
    rules: Sequence[str] = ()


def counts_record(places: Places, classes: Sequence[str], tally: Tally | None) -> dict[str, Any]:
    """What PREFIX/state holds of the counts.

    By name, not by position: after a change of settings no reader takes one for another. What is not known
    yet, with a tally of None, is null. A 0 would mean a new start to Home Assistant, which would count twice
    the totals that are continued after a restart.
    classes: names of those that are looked for; as long as they are few, each is there from the start.
    """

    def all_null(place: dict[str, Any]) -> dict[str, Any]:
        return {key: all_null(value) if isinstance(value, dict) else None for key, value in place.items()}

    few = classes if len(classes) <= _CLASSES_SHOWN else ()
    nobody = dict.fromkeys(few, (0, 0))
    queues = {*places.queues}
    empty = Tally(
        tuple(LineCount(name, 0, 0, nobody) for name in places.lines),
        tuple(
            ZoneCount(name, 0, 0, 0.0, 0.0, nobody, QueueCount() if name in queues else None)
            for name in places.zones
        ),
        (),
        tuple(RoomCount(name, 0, 0, 0, 0) for name in places.rooms),
        tuple(RuleState(name, "", "", False, 0.0) for name in places.rules),
    )
    record: dict[str, Any] = {}
    for kind, unknown in empty.as_dict().items():
        record[kind] = {place.pop("name"): all_null(place) for place in unknown}
    for kind, known in ({} if tally is None else tally.as_dict()).items():
        for place in known:
            name = place.pop("name")
            if "classes" in place:
                zeros = {
                    one: dict.fromkeys(("in", "out") if kind == "lines" else ("inside", "entered"), 0)
                    for one in few
                }
                place["classes"] = {**zeros, **place["classes"]}
            record.setdefault(kind, {})[name] = place
    return record


def device_config(
    prefix: str, name: str, classes: Sequence[str], places: Places, commands: bool = False
) -> dict[str, Any]:
    """The device and its entities, as Home Assistant's discovery message has them.

    Args:
        prefix: of our topics.
        name: of the camera, as shown.
        classes: names of those that are looked for.
        places: names of lines, zones, rooms, queues and rules.
        commands: whether somebody listens on PREFIX/command.
    """
    node = node_id(prefix)
    entities = {
        "camera": {
            "platform": "binary_sensor",
            "name": "Camera",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "value_template": "{{ 'ON' if value_json.camera == 'live' else 'OFF' }}",
        },
        "fps": _number("Frame rate", "fps", unit_of_measurement="fps", entity_category="diagnostic"),
        "age": _number("Frame age", "age_ms", **_duration("ms"), entity_category="diagnostic"),
    }
    # Of one class the totals say all, and many would bury them.
    each = classes if 1 < len(classes) <= _CLASSES_SHOWN else ()
    for line in places.lines:
        for direction in ("in", "out"):
            entities[f"line_{line}_{direction}"] = _total(f"{line} {direction}", "lines", line, direction)
            for label in each:
                entities[f"line_{line}_{direction}_class_{label}"] = _total(
                    f"{line} {direction}, {label}", "lines", line, "classes", label, direction
                )
    for zone in places.zones:
        entities[f"zone_{zone}_inside"] = _number(f"{zone} inside", "zones", zone, "inside")
        entities[f"zone_{zone}_entered"] = _total(f"{zone} visits", "zones", zone, "entered")
        entities[f"zone_{zone}_mean"] = _number(
            f"{zone} mean dwell", "zones", zone, "mean_dwell_s", **_duration("s")
        )
        entities[f"zone_{zone}_longest"] = _number(
            f"{zone} longest dwell", "zones", zone, "longest_s", **_duration("s")
        )
        for label in each:
            entities[f"zone_{zone}_inside_class_{label}"] = _number(
                f"{zone} inside, {label}", "zones", zone, "classes", label, "inside"
            )
    for zone in places.queues:
        entities[f"zone_{zone}_queue"] = _number(f"{zone} queue", "zones", zone, "queue", "length")
        for key, text in (
            ("longest_s", "longest wait now"),
            ("left_mean_s", "mean wait, 15 min"),
            ("left_p90_s", "90 % waited at most, 15 min"),
        ):
            entities[f"zone_{zone}_queue_{key}"] = _number(
                f"{zone} {text}", "zones", zone, "queue", key, **_duration("s")
            )
    for room in places.rooms:
        for key, text in (("inside", "inside"), ("low", "inside, at least"), ("high", "inside, at most")):
            entities[f"room_{room}_{key}"] = _number(f"{room} {text}", "rooms", room, key)
        if commands:
            entities[f"room_{room}_reset"] = {
                "platform": "button",
                "name": f"{room} is empty",
                "command_topic": f"{prefix}/command",
                "payload_press": json.dumps({"reset": room, "inside": 0}, ensure_ascii=False),
                "entity_category": "config",
            }
    for rule in places.rules:
        path = _path("rules", rule, "active")
        entities[f"rule_{rule}"] = {
            "platform": "binary_sensor",
            "name": rule,
            "device_class": "problem",
            # "None" is Home Assistant's word for unknown.
            "value_template": f"{{{{ 'None' if {path} is none else 'ON' if {path} else 'OFF' }}}}",
        }
    shown = len(classes) <= _CLASSES_SHOWN
    for label in classes:
        entities[f"class_{label}"] = _number(f"{label} in view", "objects", label, enabled_by_default=shown)
    return {
        "device": {
            "identifiers": [node],
            "name": name,
            "manufacturer": "edge-centernet",
            "model": "CenterNet INT8 detector",
            "sw_version": __version__,
        },
        "origin": {"name": "edge-centernet", "sw_version": __version__},
        "availability_topic": f"{prefix}/availability",
        "state_topic": f"{prefix}/state",
        "qos": 1,
        "components": {key: {**entity, "unique_id": f"{node}_{key}"} for key, entity in entities.items()},
    }


def _number(name: str, *keys: str, **more: Any) -> Entity:
    """A current value, found in the state by `keys`. more: further settings of the entity."""
    return {
        "platform": "sensor",
        "name": name,
        "state_class": "measurement",
        "value_template": f"{{{{ {_path(*keys)} }}}}",
        **more,
    }


def _path(*keys: str) -> str:
    """Where in the state a value is, for a template."""
    # Names of lines and zones may hold any character. JSON's quoting is also Jinja's.
    return "value_json" + "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in keys)


def _total(name: str, *keys: str) -> Entity:
    """A count since the start. Home Assistant takes a smaller value for a new start and adds it up."""
    return _number(name, *keys, state_class="total_increasing")


def _duration(unit: str) -> Entity:
    return {
        "device_class": "duration",
        "unit_of_measurement": unit,
        "suggested_display_precision": 1 if unit == "s" else 0,
    }
