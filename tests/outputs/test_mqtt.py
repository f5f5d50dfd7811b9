"""MQTT against a real Mosquitto, with a real subscriber: nothing is lost, counted twice or held up."""

from __future__ import annotations

import gc
import json
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from broker import Mosquitto, Subscriber, free_port, needs_broker
from snapshots import CLASSES, counted, crossing, snapshot

from edge_centernet.errors import ConfigError
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Event, LineCount, QueueCount, RoomCount, RuleState, Tally, ZoneCount

pytest.importorskip("paho.mqtt", reason="the extra `live` is not installed")


from edge_centernet.outputs import mqtt as mqtt_module
from edge_centernet.outputs.home_assistant import Places, device_config, node_id
from edge_centernet.outputs.mqtt import PASSWORD_VARIABLE, MqttOutput, parse_url

pytestmark = pytest.mark.slow  # a real broker that is killed and comes back

SECRET = "correct-horse"
BLOCKED_S = 0.005  # a call of `update` that takes longer was held up: it needs a fiftieth of that


def wait_for(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The condition's first true value; AssertionError if there is none in time."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
    return value


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """What is put in here is closed after the test, the last one first."""
    things: list[Any] = []
    yield things
    for thing in reversed(things):
        thing.close()


def output(made: list[Any], url: str, **options: Any) -> MqttOutput:
    """Started, with the classes and names of `counted`."""
    mqtt = MqttOutput(
        url, **{"name": "Front door", "classes": CLASSES, "lines": ["door"], "zones": ["shop"], **options}
    )
    mqtt.start()
    made.append(mqtt)
    return mqtt


def subscriber(made: list[Any], broker: Mosquitto, *topics: str) -> Subscriber:
    """A subscriber that is closed after the test."""
    made.append(Subscriber(broker.port, *topics))
    heard: Subscriber = made[-1]
    return heard


# ---- the URL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "user"),
    [
        ("mqtt://broker", "broker", 1883, "edge-centernet/front-door", None),
        ("mqtt://broker:1884/house/door/", "broker", 1884, "house/door", None),
        ("mqtts://broker/x", "broker", 8883, "x", None),
        (f"mqtt://anna:{SECRET}@[::1]/x", "::1", 1883, "x", "anna"),
        ("mqtt://a%40b:p%2Fw@broker/x", "broker", 1883, "x", "a@b"),
    ],
)
def test_url(url: str, host: str, port: int, prefix: str, user: str | None) -> None:
    """Host, port, prefix and user as the URL says, or their defaults."""
    found = parse_url(url, "Front door")
    assert (found.host, found.port, found.prefix, found.user) == (host, port, prefix, user)


def test_names_in_any_script_have_topics_of_their_own() -> None:
    """A short hash keeps apart what a to z cannot; the two ways to write an umlaut are one name."""
    prefixes = [
        parse_url("mqtt://broker", name).prefix for name in ("大门", "后门", "Küche", "Köche", "?", "!")
    ]
    assert len(set(prefixes)) == 6
    assert all(re.fullmatch(r"edge-centernet/[a-z-]+-[0-9a-f]{6}", prefix) for prefix in prefixes)
    one, other = (parse_url("mqtt://broker", name).prefix for name in ("Küche", "Ku\u0308che"))
    assert one == other


def test_public_form_has_no_secret() -> None:
    """Neither the form for logs nor repr shows the password, nor the former the user."""
    found = parse_url(f"mqtts://anna:{SECRET}@[::1]/x", "c")
    assert found.public == "mqtts://[::1]:8883/x"
    assert found.password == SECRET
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"http://anna:{SECRET}@broker/x", "got http://"),
        (f"anna:{SECRET}@broker", "expected mqtt://"),
        ("broker", "no scheme"),
        (f"mqtt://anna:{SECRET}@/x", "no host"),
        (f"mqtt://anna:{SECRET}/7@broker/x", "not escaped"),
        ("mqtt://broker:port/x", "host or port"),
        ("mqtt://broker:0/x", "port 0"),
        ("mqtt://a..b/x", "host or port"),
        (f"mqtt://anna:{SECRET}#7@broker/x", "not escaped|a [?] or #|no host"),
        (f"mqtt://:{SECRET}@broker/x", "user name"),
        ("mqtt://broker/a/%2B/b", r"without \+ and #"),
        ("mqtt://broker/" + "x" * 201, "200 bytes"),
    ],
)
def test_wrong_url(url: str, reason: str) -> None:
    """A URL of the wrong form is refused with the reason, and without the password."""
    with pytest.raises(ConfigError, match=reason) as refused:
        MqttOutput(url, name="c", classes=CLASSES)
    assert SECRET not in str(refused.value)


def test_password_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's first line goes before the environment; both go unseen by those who list processes."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "from-environment")
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    assert parse_url("mqtt://anna@broker", "c").password == "from-environment"
    assert parse_url("mqtt://anna@broker", "c", file).password == SECRET
    assert parse_url("mqtt://broker", "c").password is None


def test_password_file_that_does_not_help(tmp_path: Path) -> None:
    """Missing, empty, or beside a password in the URL: refused with the reason."""
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="No such file"):
        parse_url("mqtt://anna@broker", "c", tmp_path / "none")
    with pytest.raises(ConfigError, match="empty line"):
        parse_url("mqtt://anna@broker", "c", tmp_path / "empty")
    with pytest.raises(ConfigError, match="got both"):
        parse_url(f"mqtt://anna:{SECRET}@broker", "c", tmp_path / "empty")


# ---- what is published
# ---------------------------------------------------------------------------------------


@needs_broker
def test_state_says_what_is_counted(broker: Mosquitto, made: list[Any]) -> None:
    """The retained state holds totals, objects in view and how the camera is; a late subscriber gets it."""
    early = subscriber(made, broker)
    output(made, broker.url, wanted=["person", "dog"]).update(
        snapshot(3, 2, 0, 2, tally=counted(12, 9, inside=2))
    )
    wait_for(early.state)
    late = subscriber(made, broker)
    state = wait_for(late.state)
    none = {"in": 0, "out": 0}
    line = {"in": 12, "out": 9, "classes": {"person": {"in": 12, "out": 9}, "dog": none}}
    assert state["lines"] == {"door": line}
    inside = {"person": {"inside": 2, "entered": 4}, "dog": {"inside": 0, "entered": 0}}
    zone = {"inside": 2, "entered": 4, "longest_s": 9.5, "mean_dwell_s": 3.2, "classes": inside}
    assert state["zones"] == {"shop": zone}
    assert state["objects"] == {"person": 2, "dog": 0}
    assert (state["camera"], state["fps"], state["age_ms"], state["frames"]) == ("live", 20.0, 41, 8)
    assert late.messages[0].retain


@needs_broker
def test_events_carry_run_and_number(broker: Mosquitto, made: list[Any]) -> None:
    """Each event comes once, numbered from 1 within its run; (run, seq) tells a repetition."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    for number in (1, 2, 3):
        mqtt.update(snapshot(number, tally=counted(number, 0, crossing(number))))
    wait_for(lambda: len(heard.payloads("events")) == 3)
    assert [(event["run"], event["seq"]) for event in heard.payloads("events")] == [
        (mqtt.run, n) for n in (1, 2, 3)
    ]
    event = heard.payloads("events")[0]
    assert {key: event[key] for key in ("event", "where", "id", "class", "direction")} == {
        "event": "crossed",
        "where": "door",
        "id": 1,
        "class": "person",
        "direction": "in",
    }


@needs_broker
def test_state_once_a_second_unless_counts_change(broker: Mosquitto, made: list[Any]) -> None:
    """A hundred frames in 1.5 s make two or three states; a new count is published at once."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    for number in range(100):
        mqtt.update(snapshot(number, number % 3, tally=counted(1)))
        time.sleep(0.015)
    assert 2 <= len(heard.payloads("state")) <= 4
    mqtt.update(snapshot(100, tally=counted(1)))
    mqtt.update(snapshot(101, tally=counted(2)))
    wait_for(lambda: heard.state()["lines"]["door"]["in"] == 2)


@needs_broker
def test_lost_camera_keeps_its_totals(broker: Mosquitto, made: list[Any]) -> None:
    """While the camera is away the state says so: totals stand, what is in view is unknown."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    mqtt.update(snapshot(0, 2, tally=counted(7)))
    mqtt.waiting(CaptureState("lost", "unplugged", frames=2, last_frame=time.monotonic() - 3))
    state = wait_for(lambda: heard.state() if heard.state().get("camera") == "lost" else None)
    assert (state["detail"], state["lines"]["door"]["in"], state["objects"]["person"]) == (
        "unplugged",
        7,
        None,
    )
    assert (state["fps"], state["age_ms"]) == (0.0, pytest.approx(3000, abs=500))


@needs_broker
def test_totals_are_unknown_before_the_first_frame(broker: Mosquitto, made: list[Any]) -> None:
    """A camera that is not there yet has no totals: 0 would be a new start, and count old totals twice."""
    heard = subscriber(made, broker)
    output(made, broker.url, queues=["shop"], rules=["busy"]).waiting(CaptureState("starting"))
    state = wait_for(heard.state)
    unknown = {label: {"in": None, "out": None} for label in CLASSES}
    assert state["lines"] == {"door": {"in": None, "out": None, "classes": unknown}}
    assert {value for key, value in state["zones"]["shop"].items() if key not in ("classes", "queue")} == {
        None
    }
    assert set(state["zones"]["shop"]["queue"].values()) == {None}
    assert state["rules"] == {"busy": dict.fromkeys(("kind", "where", "active", "value"))}


# ---- Home Assistant
# --------------------------------------------------------------------------------------------


def config_topic(mqtt: MqttOutput) -> str:
    """Where the device is announced."""
    return f"homeassistant/device/{node_id(mqtt.broker.prefix)}/config"


@needs_broker
def test_discovery_is_retained(broker: Mosquitto, made: list[Any]) -> None:
    """Home Assistant, started after the camera, finds the device with all its entities and two topics."""
    mqtt = output(made, broker.url)
    early = subscriber(made, broker)
    wait_for(lambda: "online" in early.payloads("availability"))
    late = subscriber(made, broker, "homeassistant/#")
    message = wait_for(lambda: late.messages)[0]
    config = json.loads(message.payload)
    assert (message.topic, message.retain) == (config_topic(mqtt), True)
    assert (config["state_topic"], config["availability_topic"]) == (
        "house/door/state",
        "house/door/availability",
    )
    assert config["device"]["name"] == "Front door"
    assert set(config["components"]) == {
        *("camera", "fps", "age", "line_door_in", "line_door_out"),
        *("zone_shop_inside", "zone_shop_entered", "zone_shop_mean", "zone_shop_longest"),
        *(f"line_door_{way}_class_{label}" for way in ("in", "out") for label in CLASSES),
        *(f"zone_shop_inside_class_{label}" for label in CLASSES),
        *("class_cat", "class_dog", "class_person"),
    }
    assert config["components"]["line_door_in"]["state_class"] == "total_increasing"


@needs_broker
def test_discovery_is_repeated_for_a_new_home_assistant(broker: Mosquitto, made: list[Any]) -> None:
    """Home Assistant comes online: it gets the announcement, the availability and the state once more."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    mqtt.update(snapshot(0, tally=counted(5)))

    def announced() -> int:
        return sum(message.topic == config_topic(mqtt) for message in list(heard.messages))

    wait_for(lambda: announced() == 1 and heard.state())
    heard.publish("homeassistant/status", "online")
    wait_for(lambda: announced() == 2 and len(heard.payloads("state")) == 2)
    assert heard.payloads("availability") == ["online", "online"]


@needs_broker
def test_lines_that_are_drawn_later_are_announced(broker: Mosquitto, made: list[Any]) -> None:
    """Home Assistant gets the device anew, with the lines, zones and rooms that there are then."""
    heard, states = subscriber(made, broker, "homeassistant/#"), subscriber(made, broker)
    mqtt = output(made, broker.url)
    wait_for(lambda: heard.messages)
    mqtt.announce(lines=["exit"], rooms=["hall"])
    components = json.loads(wait_for(lambda: heard.messages[1:])[0].payload)["components"]
    assert {"line_exit_in", "room_hall_inside"} <= set(components)
    assert not [name for name in components if name.startswith(("line_door", "zone_"))]
    mqtt.update(snapshot(0))
    assert set(wait_for(states.state)["lines"]) == {"exit"}


@needs_broker
def test_discovery_can_be_left_out(broker: Mosquitto, made: list[Any]) -> None:
    """Without it, nothing is published outside the prefix."""
    heard = subscriber(made, broker)
    output(made, broker.url, discovery=False).update(snapshot(0))
    wait_for(heard.state)
    assert {message.topic for message in heard.messages} == {"house/door/availability", "house/door/state"}


@needs_broker
def test_templates_read_the_state(broker: Mosquitto, made: list[Any]) -> None:
    """Every entity's template, rendered on the published state, gives its value, awkward names included."""
    jinja2 = pytest.importorskip("jinja2")
    room = RoomCount("hall", 7, 5, 9, 20)
    line, zone, rule = 'the "big" gate }} é 🚪', "back\\slash's", 'too "full" }}'
    heard = subscriber(made, broker)
    names: dict[str, Any] = {
        "lines": [line], "zones": [zone], "rooms": ["hall"], "queues": [zone], "rules": [rule]
    }  # fmt: skip
    mqtt = output(made, broker.url, wanted=["cat", "person"], **names)
    zones = (ZoneCount(zone, 2, 5, 8.0, 4.0, {"person": (2, 5)}, QueueCount(2, 3.0, 4.5, 1, 60.0, 61.0)),)
    rules = (RuleState(rule, "queue", zone, True, 2),)
    lines = (LineCount(line, 3, 1, {"person": (3, 1)}),)
    mqtt.update(snapshot(0, 2, tally=Tally(lines, zones, (), (room,), rules)))
    state = wait_for(heard.state)
    config = device_config("house/door", "c", ["cat", "person"], Places(**names))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    shown = {
        entity["name"]: environment.from_string(entity["value_template"]).render(value_json=state)
        for entity in config["components"].values()
    }
    assert shown == {
        "Camera": "ON",
        "Frame rate": "20.0",
        "Frame age": "41",
        f"{line} in": "3",
        f"{line} in, cat": "0",
        f"{line} in, person": "3",
        f"{line} out": "1",
        f"{line} out, cat": "0",
        f"{line} out, person": "1",
        f"{zone} inside": "2",
        f"{zone} inside, cat": "0",
        f"{zone} inside, person": "2",
        f"{zone} queue": "2",
        f"{zone} longest wait now": "4.5",
        f"{zone} mean wait, 15 min": "60.0",
        f"{zone} 90 % waited at most, 15 min": "61.0",
        rule: "ON",
        f"{zone} visits": "5",
        f"{zone} mean dwell": "4.0",
        f"{zone} longest dwell": "8.0",
        "hall inside": "7",
        "hall inside, at least": "5",
        "hall inside, at most": "9",
        "cat in view": "0",
        "person in view": "1",
    }


def test_ids_differ_where_prefixes_do() -> None:
    """Prefixes that look alike in Home Assistant's alphabet still get an id each, of allowed characters."""
    ids = {node_id(prefix) for prefix in ("a/b", "a-b", "a_b", "ä/b")}
    assert len(ids) == 4
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in ids)


def test_many_classes_are_off_until_wanted() -> None:
    """A model of twenty classes announces them all, switched off."""
    config = device_config("p", "c", [f"class {n}" for n in range(20)], Places(["door"]))
    assert not [key for key in config["components"] if key.startswith("line_door_in_class")]
    assert config["components"]["class_class 7"]["enabled_by_default"] is False
    assert device_config("p", "c", ["cat"], Places())["components"]["class_cat"]["enabled_by_default"] is True


@needs_broker
def test_a_room_is_reset_by_a_command(
    tmp_path: Path, made: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """By those whom the broker knows: not by what is retained, nor by what is no command, which is logged."""
    passwords = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-b", "-c", str(passwords), "anna", SECRET]
    subprocess.run(command, check=True, capture_output=True)
    broker = Mosquitto(tmp_path, f"password_file {passwords}", "allow_anonymous false")
    broker.start()
    try:
        say = ["mosquitto_pub", "-p", str(broker.port), "-u", "anna", "-P", SECRET, "-q", "1"]
        say += ["-t", "house/door/command"]
        subprocess.run([*say, "-r", "-m", '{"reset": "shop", "inside": 99}'], check=True)
        done: list[tuple[str, int]] = []

        def reset(room: str, inside: int) -> None:
            if room != "shop":
                raise ConfigError(f"room: expected one of shop, got {room!r}")
            done.append((room, inside))

        url = f"mqtt://anna:{SECRET}@127.0.0.1:{broker.port}/house/door"
        mqtt = output(made, url, rooms=["shop"], reset_room=reset)
        wait_for(lambda: mqtt._connected)
        (button,) = (
            one for one in json.loads(mqtt._config)["components"].values() if one["platform"] == "button"
        )
        assert button["command_topic"] == "house/door/command"
        # It is connected before it has told the broker what it listens to, and what comes between is lost.
        for attempt in range(15):
            probe = json.dumps({"reset": "shop", "inside": attempt}).encode()
            subprocess.run([*say, "-s"], input=probe, check=True)
            with suppress(AssertionError):
                wait_for(lambda probed=("shop", attempt): probed in done, 1.0)
                break
        done.clear()
        wrong = ["reset", "[" * 60_000, '{"reset": "cellar"}', '{"reset": "shop", "delete": 1}', "[]"]
        with caplog.at_level(logging.WARNING):
            for text in [*wrong, button["payload_press"], '{"reset": "shop", "inside": 7}']:
                subprocess.run([*say, "-s"], input=text.encode(), check=True)
            wait_for(lambda: len(done) == 2)
        assert done == [("shop", 0), ("shop", 7)]
        told = [record.getMessage() for record in caplog.records if "command" in record.getMessage()]
        assert [text.rpartition(": ")[2] for text in told] == [
            "it is not JSON", "it is not JSON", "expected one of shop, got 'cellar'", "no such command",
            "no such command",
        ]  # fmt: skip
        mqtt.close()
    finally:
        broker.kill()


@needs_broker
def test_without_a_password_nobody_commands(broker: Mosquitto, made: list[Any]) -> None:
    """Whoever is in the network could empty a room: no button is announced, and no command obeyed."""
    done: list[tuple[str, int]] = []
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url, rooms=["shop"], reset_room=lambda *command: done.append(command))
    wait_for(lambda: "online" in heard.payloads("availability"))
    assert "button" not in mqtt._config
    heard.publish("house/door/command", '{"reset": "shop"}')
    mqtt.update(snapshot(0, tally=counted(1)))
    wait_for(lambda: heard.state().get("lines", {}).get("door", {}).get("in"))
    assert done == []


@needs_broker
def test_an_alert_is_an_event_and_a_state(broker: Mosquitto, made: list[Any]) -> None:
    """Published at once, both ways."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url, rules=["busy"])
    for number, state in ((1, "began"), (2, "ended")):
        event = Event("alert", "shop", 0, "", 7.0, rule="busy", state=state, value=6, dwell_s=number)
        on = RuleState("busy", "capacity", "shop", state == "began", 6)
        mqtt.update(snapshot(number, tally=Tally((), (), (event,), rules=(on,))))
        wait_for(lambda on=on: heard.state().get("rules", {}).get("busy", {}).get("active") is on.active, 5)
    wait_for(lambda: len(heard.payloads("events")) == 2)
    began, ended = (
        {k: v for k, v in e.items() if k not in ("time", "run")} for e in heard.payloads("events")
    )
    alert = {"event": "alert", "where": "shop", "seconds": 7.0, "name": "busy", "value": 6}
    assert began == {**alert, "seq": 1, "state": "began"}
    assert ended == {**alert, "seq": 2, "state": "ended", "lasted_s": 2.0}


# ---- when things fail
# ----------------------------------------------------------------------------------------------

CHILD = """
import sys, time
from edge_centernet.outputs.mqtt import MqttOutput
MqttOutput(sys.argv[1], name="c", classes=["cat"]).start()
time.sleep(60)
"""


@needs_broker
def test_killed_process_is_offline(broker: Mosquitto, made: list[Any]) -> None:
    """After SIGKILL the broker says "offline" by the last will, to those who come later too."""
    heard = subscriber(made, broker)
    child = subprocess.Popen([sys.executable, "-c", CHILD, broker.url])
    try:
        wait_for(lambda: heard.payloads("availability") == ["online"], 60)
    finally:
        child.kill()
        child.wait()
    wait_for(lambda: heard.payloads("availability") == ["online", "offline"])
    late = subscriber(made, broker)
    assert wait_for(lambda: late.payloads("availability")) == ["offline"]


@needs_broker
def test_close_sends_the_last_counts_and_says_goodbye(broker: Mosquitto, made: list[Any]) -> None:
    """What was counted a moment before the end is published, then "offline"."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    mqtt.update(snapshot(0, tally=counted(1)))
    for number in range(100):
        mqtt.update(snapshot(number, 2, tally=counted(2 + number, 0, crossing(number))))
    mqtt.close()
    mqtt.close()
    wait_for(lambda: heard.payloads("availability")[-1] == "offline")
    assert heard.state()["lines"]["door"]["in"] == 101
    assert [event["seq"] for event in heard.payloads("events")] == list(range(1, 101))


def test_close_without_a_broker_takes_a_moment(made: list[Any]) -> None:
    """Nobody answers: closing gives up."""
    mqtt = output(made, f"mqtt://127.0.0.1:{free_port()}/x")
    mqtt.update(snapshot(0))
    time.sleep(0.2)
    mqtt.close(timeout_s=1.0)


@needs_broker
def test_close_with_a_frozen_broker_takes_a_moment(broker: Mosquitto, made: list[Any]) -> None:
    """The broker is stopped in mid-air: updates pass, closing gives up."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    wait_for(lambda: heard.payloads("availability"))
    broker.signal(signal.SIGSTOP)
    try:
        times = [timed(mqtt, number) for number in range(200)]
        mqtt.close(timeout_s=1.0)
        calm(times)
    finally:
        broker.signal(signal.SIGCONT)


def timed(mqtt: MqttOutput, number: int) -> float:
    """Seconds that one update took, with one more person counted and an event."""
    result = snapshot(number, 2, tally=counted(number, 0, crossing(number)))
    start = time.perf_counter()
    mqtt.update(result)
    return time.perf_counter() - start


def calm(times: list[float]) -> None:
    """Nobody was held up: half of the updates take less than what a network's answer would."""
    assert sorted(times)[len(times) // 2] < BLOCKED_S


def test_unknown_host_is_one_line(made: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """A broker that does not exist costs one line in the log, not one an attempt, and detection nothing."""
    with caplog.at_level(logging.INFO, "edge_centernet"):
        mqtt = output(made, f"mqtt://anna:{SECRET}@host.invalid/x")
        wait_for(lambda: caplog.messages)
        calm([timed(mqtt, number) for number in range(100)])
        time.sleep(3.5)  # two more attempts
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("MQTT: mqtt://host.invalid:1883/x: ")
    assert "detection goes on" in caplog.messages[0]
    assert SECRET not in caplog.text


@needs_broker
def test_events_beyond_the_bound(tmp_path: Path, made: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """Fifty events without a broker, room for twenty: the newest arrive, with a gap; totals are right."""
    broker = Mosquitto(tmp_path)
    made.append(Closing(broker.kill))
    with caplog.at_level(logging.INFO, "edge_centernet"):
        mqtt = output(made, broker.url, events_kept=20)
        for number in range(1, 51):
            mqtt.update(snapshot(number, tally=counted(number, 0, crossing(number))))
        broker.start()
        heard = subscriber(made, broker)
        wait_for(lambda: len(heard.payloads("events")) == 20)
    assert [event["seq"] for event in heard.payloads("events")] == list(range(31, 51))
    assert heard.state()["lines"]["door"]["in"] == 50
    assert "MQTT: 20 events wait for the broker; the oldest are dropped from now on" in caplog.messages
    assert caplog.messages[-1].endswith("20 events to send, 30 older ones are lost")


class Closing:
    """Calls a function on close."""

    def __init__(self, close: Callable[[], None]) -> None:
        """close: what to call."""
        self.close = close


@needs_broker
@pytest.mark.parametrize("away_s", [4.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_broker_killed_and_back(broker: Mosquitto, made: list[Any], away_s: float) -> None:
    """The broker is killed at 20 frames per second: no update waits, no count is lost, no event doubled."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    times: list[float] = []
    stop = threading.Event()

    def detect() -> None:
        while not stop.wait(0.05):
            times.append(timed(mqtt, len(times) + 1))

    detection = threading.Thread(target=detect)
    detection.start()
    try:
        wait_for(lambda: len(heard.payloads("events")) >= 20)
        broker.kill()
        time.sleep(away_s)
        broker.start()
        before = len(times)
        wait_for(lambda: len(times) >= before + 20)
    finally:
        stop.set()
        detection.join()
    counts = len(times)
    assert counts > 20 * away_s * 0.5
    wait_for(lambda: heard.state()["lines"]["door"]["in"] == counts, 40)
    wait_for(lambda: len({event["seq"] for event in heard.payloads("events")}) == counts)
    events = heard.payloads("events")
    once = {(event["run"], event["seq"]): event for event in events}
    assert sorted(event["id"] for event in once.values()) == list(range(1, counts + 1))
    totals = [state["lines"]["door"]["in"] for state in heard.payloads("state")]
    repeated, slowest = len(events) - counts, max(times) * 1e3
    print(f"{counts} frames, {len(events)} events of which {repeated} repeated, {slowest:.2f} ms")
    assert totals[-1] == counts
    calm(times)


@needs_broker
def test_wrong_password_is_one_line(
    tmp_path: Path, made: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A refused password costs one line, which does not show it; the right one, from a file, is let in."""
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "anna", SECRET], check=True, capture_output=True
    )
    passwords.chmod(0o600)
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    broker.start()
    made.append(Closing(broker.kill))
    url = f"mqtt://anna:wrong-horse@127.0.0.1:{broker.port}/x"
    (tmp_path / "right").write_text(f"{SECRET}\n")
    with caplog.at_level(logging.INFO, "edge_centernet"):
        output(made, url)
        wait_for(lambda: caplog.messages)
        time.sleep(2.5)
        assert len(caplog.messages) == 1
        assert (
            f"mqtt://127.0.0.1:{broker.port}/x: it refuses the connection: Not authorized"
            in caplog.messages[0]
        )
        output(made, url.replace(":wrong-horse", ""), password_file=tmp_path / "right")
        wait_for(lambda: f"MQTT: connected to mqtt://127.0.0.1:{broker.port}/x" in caplog.messages)
    assert "horse" not in caplog.text


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_broker
def test_tls(tmp_path: Path, made: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """mqtts:// trusts the certificates it was given, and refuses the same broker without them."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate: install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    extensions = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*command.split(), *extensions], check=True, capture_output=True)
    broker = Mosquitto(tmp_path, "allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    broker.start()
    made.append(Closing(broker.kill))
    url = broker.url.replace("mqtt://", "mqtts://")
    with caplog.at_level(logging.INFO, "edge_centernet"):
        output(made, url)
        wait_for(lambda: "certificate verify failed" in caplog.text)
        made.pop().close()
        gc.collect()
        output(made, url, ca_file=certificate)
        wait_for(lambda: f"MQTT: connected to {url}" in caplog.messages)


@needs_broker
def test_a_retained_message_of_a_megabyte_does_no_harm(
    broker: Mosquitto, made: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where Home Assistant's word is expected: it is not read, one line says so, all else is published."""
    heard = subscriber(made, broker, "house/#")
    heard.publish("homeassistant/status", "A" * (1 << 20), retain=True)
    with caplog.at_level(logging.INFO, "edge_centernet"):
        mqtt = output(made, broker.url)
        wait_for(lambda: "connected to" in caplog.text and "65536 bytes" in caplog.text)
        mqtt.update(snapshot(0, tally=counted(5)))
        wait_for(heard.state)
        wait_for(lambda: mqtt.trouble == "")
        time.sleep(1.5)
    assert heard.payloads("availability")[-1] == "online"
    assert sum("65536 bytes" in message for message in caplog.messages) == 1


class Broker:
    """A broker that accepts connections and says as little as it is told to. packets: their kinds."""

    def __init__(self, connack: bool, puback: bool) -> None:
        """Listening."""
        self.connack, self.puback = connack, puback
        self.packets: list[int] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._socket.getsockname()[1]}/house/door"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream, suppress(OSError):
            while head := stream.read(1):
                length = shift = 0
                while (byte := stream.read(1)[0]) >= 128:
                    length, shift = length | (byte & 127) << shift, shift + 7
                body = stream.read(length | byte << shift)
                kind = head[0] >> 4
                self.packets.append(kind)
                if kind == 1 and self.connack:
                    client.sendall(b"\x20\x02\0\0")
                elif kind == 8:
                    client.sendall(b"\x90\x03" + body[:2] + b"\x01")
                elif kind == 3 and self.puback:
                    at = 2 + int.from_bytes(body[:2], "big")
                    client.sendall(b"\x40\x02" + body[at : at + 2])


def test_a_broker_that_accepts_nobody_is_one_line(
    made: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and never answers: a warning in time, and health has it."""
    monkeypatch.setattr(mqtt_module, "_SILENT_S", 0.3)
    made.append(Broker(connack=False, puback=False))
    mqtt = output(made, made[-1].url)
    assert mqtt.trouble == ""
    wait_for(lambda: mqtt.trouble)
    time.sleep(0.5)
    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"MQTT: {mqtt.broker.public}: the broker does not answer for 0 s"
    ]


def test_a_broker_that_confirms_nothing_is_connected_to_anew(
    made: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, a new connection after a while, and a line when it confirms again; nothing is lost."""
    monkeypatch.setattr(mqtt_module, "_SILENT_S", 0.2)
    monkeypatch.setattr(mqtt_module, "_GIVE_UP_S", 0.8)
    broker = Broker(connack=True, puback=False)
    made.append(broker)
    mqtt = output(made, broker.url)
    with caplog.at_level(logging.INFO, "edge_centernet"):
        wait_for(lambda: "confirms nothing" in mqtt.trouble)
        wait_for(lambda: broker.packets.count(1) == 2)
        assert "confirms nothing" in mqtt.trouble
        broker.puback = True
        wait_for(lambda: mqtt.trouble == "")
    said = [message for message in caplog.messages if "confirms" in message]
    assert len(said) == 2
    assert said[1] == f"MQTT: {mqtt.broker.public} confirms what is sent again"


@needs_broker
def test_home_assistant_starts_a_hundred_times_a_second(broker: Mosquitto, made: list[Any]) -> None:
    """Whoever says so on the broker gets no flood of announcements for it."""
    heard = subscriber(made, broker)
    mqtt = output(made, broker.url)
    wait_for(lambda: heard.payloads("availability"))
    for _ in range(100):
        heard.publish("homeassistant/status", "online")
    assert sum(message.topic == config_topic(mqtt) for message in list(heard.messages)) <= 2


def test_certificates_that_are_none(tmp_path: Path) -> None:
    """A file without certificates is refused at once, by its name."""
    (tmp_path / "ca.pem").write_text("nothing\n")
    with pytest.raises(ConfigError, match=r"ca\.pem: expected certificates to trust"):
        MqttOutput("mqtts://broker/x", name="c", classes=CLASSES, ca_file=tmp_path / "ca.pem")
