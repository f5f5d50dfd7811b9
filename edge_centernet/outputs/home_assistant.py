"""What Home Assistant needs to show a camera's counts by itself: MQTT device discovery, since 2024.11.

One retained message on homeassistant/device/ID/config announces the device with all its entities
(https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery). They all read the one state topic, whose
content is described in `outputs/mqtt.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from edge_centernet import __version__

# Of a model that knows more, each class is announced but disabled until somebody enables it: 80 sensors would
# bury the counts that the camera is there for.
_CLASSES_SHOWN = 8

Entity = dict[str, Any]


def node_id(prefix: str) -> str:
    """A name for Home Assistant's topics, of letters, digits and underscores; each topic prefix has its own.

    The hash keeps apart prefixes that differ only in other characters, such as "hall/door" and "hall-door".
    """
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', prefix)[:40]}_{hashlib.sha256(prefix.encode()).hexdigest()[:6]}"


def device_config(
    prefix: str,
    name: str,
    classes: Sequence[str],
    lines: Sequence[str],
    zones: Sequence[str],
    rooms: Sequence[str] = (),
) -> dict[str, Any]:
    """The device and its entities, as Home Assistant's discovery message has them.

    Args:
        prefix: of our topics.
        name: of the camera, as shown.
        classes: names of those that are looked for.
        lines: names of the counting lines.
        zones: names of the zones.
        rooms: names of the rooms.
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
    for line in lines:
        for direction in ("in", "out"):
            entities[f"line_{line}_{direction}"] = _total(f"{line} {direction}", "lines", line, direction)
    for zone in zones:
        entities[f"zone_{zone}_inside"] = _number(f"{zone} inside", "zones", zone, "inside")
        entities[f"zone_{zone}_entered"] = _total(f"{zone} visits", "zones", zone, "entered")
        entities[f"zone_{zone}_mean"] = _number(
            f"{zone} mean dwell", "zones", zone, "mean_dwell_s", **_duration("s")
        )
        entities[f"zone_{zone}_longest"] = _number(
            f"{zone} longest dwell", "zones", zone, "longest_s", **_duration("s")
        )
    for room in rooms:
        for key, text in (("inside", "inside"), ("low", "inside, at least"), ("high", "inside, at most")):
            entities[f"room_{room}_{key}"] = _number(f"{room} {text}", "rooms", room, key)
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
    # Names of lines and zones may hold any character. JSON's quoting is also Jinja's.
    path = "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in keys)
    template = f"{{{{ value_json{path} }}}}"
    return {
        "platform": "sensor",
        "name": name,
        "state_class": "measurement",
        "value_template": template,
        **more,
    }


def _total(name: str, *keys: str) -> Entity:
    """A count since the start. Home Assistant takes a smaller value for a new start and adds it up."""
    return _number(name, *keys, state_class="total_increasing")


def _duration(unit: str) -> Entity:
    return {
        "device_class": "duration",
        "unit_of_measurement": unit,
        "suggested_display_precision": 1 if unit == "s" else 0,
    }
