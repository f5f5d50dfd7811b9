"""Counts and events to an MQTT broker, announced to Home Assistant.

Topics, below the prefix that the URL ends in:

    PREFIX/availability   retained   "online"; "offline" when detection ends, by the last will also when the
                                     process is killed
    PREFIX/state          retained   JSON: totals, what is in view, state of the camera
    PREFIX/events         once each  JSON: one crossing, entry, exit, alert or reset, numbered so that a
                                     repetition is recognised
    PREFIX/command        listens    JSON: {"reset": ROOM, "inside": N}, from a broker that asked us for a
                                     password; what is retained is ignored

Counts are totals, so a broker that was away for an hour has the right ones as soon as it is back. Events are
saved up meanwhile, up to a limit; a gap in their numbers shows that it was reached.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import ssl
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edge_centernet.camera_config import slug
from edge_centernet.detector import class_ids
from edge_centernet.errors import ConfigError
from edge_centernet.outputs.home_assistant import Places, counts_record, device_config, node_id
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import Event, Snapshot, Tally

PASSWORD_VARIABLE = "EDGE_CENTERNET_MQTT_PASSWORD"
EVENTS_KEPT = 10_000  # events saved up while the broker is away: some 3 MB
_EXPECTED = "expected mqtt://[user[:password]@]host[:port][/topic-prefix] or mqtts://..."
_STATE_EVERY_S = 1.0  # what changes with each frame is not published more often
_BATCH = 20  # messages under way at a time; paho sends as many without waiting for the broker's answer
_KEEPALIVE_S = 15  # a broker that is gone without a word is noticed after one and a half times that
_LOOK_S = 0.2  # how often the publishing thread looks for what is not urgent
_RETRY_MAX_S = 10  # between two attempts to connect
_SILENT_S = 10.0  # a broker that has not answered for so long is reported
_GIVE_UP_S = 60.0  # and after so long without a confirmation the connection is made anew
_GREET_EVERY_S = 3.0  # however often somebody says that Home Assistant has started
_MAX_PACKET = 1 << 16  # bytes; what we listen for has ten

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Broker:
    """Where to publish. prefix: of all topics, without a slash at either end."""

    host: str
    port: int
    tls: bool
    prefix: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def public(self) -> str:
        """The URL as it may be printed and logged: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}/{self.prefix}"


def parse_url(url: str, name: str, password_file: Path | None = None) -> Broker:
    """The broker of mqtt://user:password@host:1883/topic-prefix; mqtts:// for TLS, on port 8883 unless given.

    name: of the camera; the prefix is "edge-centernet/NAME" where the URL has none, see `slug`.
    password_file: its first line is the password. It may also be the value of EDGE_CENTERNET_MQTT_PASSWORD:
      every user of a machine can see its command lines.
    Special characters are written as in every URL (%40 for @). Raises ConfigError, which never shows the
    password.
    """
    # 1. The address.
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host.encode("idna")  # as the connection will: a host name that cannot exist is an error now
    except (ValueError, UnicodeError):  # the exception's own text may quote the password
        raise ConfigError(
            f"MQTT: {_EXPECTED}, got a host or port that cannot be; is a / or @ not escaped?"
        ) from None
    if parts.scheme not in ("mqtt", "mqtts"):
        raise ConfigError(f"MQTT: {_EXPECTED}, got {parts.scheme + '://' if parts.scheme else 'no scheme'}")
    if not host or port == 0:
        raise ConfigError(f"MQTT: {_EXPECTED}, got {'port 0' if host else 'no host'}")
    if parts.query or parts.fragment:
        raise ConfigError(f"MQTT: {_EXPECTED}, got a ? or #; write %3F or %23")
    # 2. User and password.
    user = unquote(parts.username) if parts.username else None
    if password_file is None:
        password = os.environ.get(PASSWORD_VARIABLE) if parts.password is None else unquote(parts.password)
    elif parts.password is not None:
        raise ConfigError("MQTT: expected the password in the URL or in a file, got both")
    else:
        try:
            password = next(iter(password_file.read_text(encoding="utf-8").splitlines()), "")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"MQTT password file {password_file}: cannot read it: {reason}") from None
        if not password:
            raise ConfigError(
                f"MQTT password file {password_file}: expected the password in its first line, "
                "got an empty line"
            )
    if user is None and (parts.password is not None or password_file is not None):
        raise ConfigError("MQTT: expected a user name with the password; write mqtt://USER@host")
    # 3. The prefix of the topics. + and # are wildcards in MQTT. Brokers limit the length of a topic, AWS IoT
    #    to 256 bytes.
    prefix = unquote(parts.path).strip("/") or f"edge-centernet/{slug(name)}"
    if re.search(r"[+#\0-\x1f\x7f]", prefix) or len(prefix.encode()) > 200:
        raise ConfigError(
            f"MQTT: expected a topic prefix of at most 200 bytes without + and #, got {prefix!r}"
        )
    tls = parts.scheme == "mqtts"
    return Broker(host, port or (8883 if tls else 1883), tls, prefix, user, password if user else None)


class _Client(Client):
    """A client that closes the connection before it reads a packet of more than `_MAX_PACKET` bytes.

    paho reads up to 256 MB into memory, and a retained message comes again at every start. MQTT 5 lets a
    client name a limit; brokers of MQTT 3 know none, and nobody forces a broker to keep it.
    """

    too_large = False  # whether that has happened

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > _MAX_PACKET:  # all that is left of the packet
            self.too_large = True
            raise ConnectionError(f"a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)


class MqttOutput:
    """Publishes from a thread of its own: a slow, absent or silent broker holds up nobody.

    Memory is bounded: the newest state, `events_kept` events and one batch under way. Beyond that the oldest
    events are dropped, which is logged; the totals are right all the same.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        classes: Sequence[str],
        wanted: Sequence[str] | None = None,
        lines: Sequence[str] = (),
        zones: Sequence[str] = (),
        rooms: Sequence[str] = (),
        queues: Sequence[str] = (),
        rules: Sequence[str] = (),
        reset_room: Callable[[str, int], None] | None = None,
        discovery: bool = True,
        discovery_prefix: str = "homeassistant",
        password_file: Path | None = None,
        ca_file: Path | None = None,
        events_kept: int = EVENTS_KEPT,
    ) -> None:
        """Check the options; nothing is sent before `start`.

        Args:
            url: see `parse_url`.
            name: of the camera, see `parse_url`; also what Home Assistant shows.
            classes: names by class_id.
            wanted: classes that are looked for; all unless given.
            lines: names of the counting lines, so that they are announced before the first frame.
            zones: names of the zones, likewise.
            rooms: names of the rooms, likewise.
            queues: names of the zones that are queues, likewise.
            rules: names of the rules, likewise.
            reset_room: sets the number of persons in a room, and raises ConfigError for what cannot be set;
                called on another thread. None listens to no commands.
            discovery: announce the device to Home Assistant.
            discovery_prefix: topic below which Home Assistant looks for announcements.
            password_file: see `parse_url`.
            ca_file: certificates to trust with mqtts://; the system's unless given.
            events_kept: events saved up while the broker is away, at most.

        Raises ConfigError for a URL, a password file, a class or certificates that cannot be used.
        """
        self.broker = parse_url(url, name, password_file)
        self.run = uuid.uuid4().hex[:12]  # event numbers begin anew with each run
        ids = range(len(classes)) if wanted is None else class_ids(wanted, classes).tolist()
        self._wanted = {classes[i]: i for i in ids}
        self._n_classes = len(classes)
        topic = f"{discovery_prefix}/device/{node_id(self.broker.prefix)}/config"
        self._config_topic = topic if discovery else ""
        self._places = Places(tuple(lines), tuple(zones), tuple(rooms), tuple(queues), tuple(rules))
        # Only a broker that knows its clients: with any other, whoever is in the network could empty a room.
        trusted = self.broker.user is not None and self.broker.password is not None
        self._reset_room = reset_room if rooms and trusted else None
        commands = self._reset_room is not None
        config = device_config(self.broker.prefix, name, list(self._wanted), self._places, commands)
        self._config = _json(config)
        self._birth_topic = f"{discovery_prefix}/status"
        self._command_topic = f"{self.broker.prefix}/command"
        self._changed = threading.Condition()  # guards the following; never held while paho is called
        self._tally: Tally | None = None
        self._state: dict[str, Any] | None = None
        self._fresh = False  # the state is not published yet
        self._urgent = False  # and must not wait for its second
        self._state_sent = float("-inf")
        self._events: deque[str] = deque(maxlen=events_kept)
        self._numbered = self._dropped = 0
        self._acknowledged: set[int] = set()
        self._connected = self._greet = False
        self._greet_at = float("-inf")  # no announcement before
        self._trouble = ""
        self._unconfirmed = False  # the trouble is that the broker is connected, and confirms nothing
        self._heard = time.monotonic()  # when the broker last answered, or was last asked
        self._deadline: float | None = None  # of closing
        self._client = self._make_client(ca_file)
        self._thread = threading.Thread(target=self._publish_all, name="mqtt", daemon=True)

    @property
    def trouble(self) -> str:
        """Why nothing reaches the broker now, for people; "" while all is well."""
        return self._trouble

    def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost; failures go to the log."""
        self._heard = time.monotonic()
        self._client.connect_async(self.broker.host, self.broker.port, keepalive=_KEEPALIVE_S)
        self._client.loop_start()
        self._thread.start()

    def update(self, snapshot: Snapshot) -> None:
        """Take over a result. Takes microseconds, whatever the broker does; keeps nothing of the image."""
        counts = np.bincount(snapshot.found.class_id, minlength=self._n_classes)
        objects: dict[str, int | None] = {label: int(counts[i]) for label, i in self._wanted.items()}
        before, self._tally = self._tally, snapshot.tally
        changed = _counts(before) != _counts(snapshot.tally)
        capture = replace(snapshot.capture, detail=snapshot.capture.detail or snapshot.unwritten)
        state = self._record(capture, objects, round(snapshot.fps, 1), round(snapshot.age_ms))
        self._take(state, changed, snapshot.tally.events if snapshot.tally else ())

    def waiting(self, capture: CaptureState) -> None:
        """Publish the state of a camera that gives no frames. Totals stay; what is in view is unknown."""
        age = None if capture.last_frame is None else round(1000 * (time.monotonic() - capture.last_frame))
        self._take(self._record(capture, dict.fromkeys(self._wanted), 0.0, age), False, ())

    def close(self, timeout_s: float = 3.0) -> None:
        """Send what is left, then "offline", and disconnect; give up after `timeout_s` seconds.

        May be called twice. If it gives up, the last will says "offline" as soon as the broker misses us.
        """
        with self._changed:
            if self._deadline is not None or not self._thread.is_alive():
                return
            self._deadline = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s)
        # paho's own join has no bound: its thread may be resolving a name, or writing to a broker that is
        # frozen.
        stopper = threading.Thread(target=self._client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(max(0.5, self._deadline - time.monotonic()))

    # ---- the content ----------------------------------------------------------------------------

    def _record(
        self, capture: CaptureState, objects: dict[str, int | None], fps: float, age_ms: int | None
    ) -> dict[str, Any]:
        """What PREFIX/state holds."""
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "run": self.run,
            "camera": capture.state,
            "detail": capture.detail,
            "objects": objects,
            **counts_record(self._places, list(self._wanted), self._tally),
            "fps": fps,
            "age_ms": age_ms,
            "frames": capture.frames,
            "dropped": capture.dropped,
            "reopened": capture.reopened,
        }

    def _take(self, state: dict[str, Any], urgent: bool, events: Sequence[Event]) -> None:
        with self._changed:
            self._state, self._fresh = state, True
            self._urgent |= urgent
            for event in events:
                self._numbered += 1
                if len(self._events) == self._events.maxlen:  # the oldest is about to be pushed out
                    self._dropped += 1
                    if self._dropped == 1:
                        _log.warning(
                            "MQTT: %d events wait for the broker; the oldest are dropped from now on",
                            len(self._events),
                        )
                head = {"time": state["time"], "run": self.run, "seq": self._numbered}
                self._events.append(_json({**head, **event.as_dict()}))
            # The rest has time until the thread looks by itself: waking it would cost the detection time.
            if urgent or events:
                self._changed.notify_all()

    # ---- the thread that publishes ----------------------------------------------------------------

    def _publish_all(self) -> None:
        """One batch after the other: the next one is made when the broker has confirmed the last.

        So the order holds, and paho never holds more than one batch. What it holds when the connection is
        lost it sends once more after the next one is made, so a message may come twice, and none is lost.
        """
        while batch := self._next_batch():
            if not self._send(batch):
                return
        if self._connected and self._send([("availability", "offline", True)]):
            self._client.disconnect()  # only now: a clean farewell takes back the last will

    def _next_batch(self) -> list[tuple[str, str, bool]]:
        """Wait for something to send: (topic, payload, retain) each. Empty when closing and all is sent."""
        while True:
            with self._changed:
                batch: list[tuple[str, str, bool]] = []
                closing = self._deadline is not None
                now = time.monotonic()
                # 1. After each connection the announcement, so that a broker that forgot everything has it.
                if self._connected and self._greet and now >= self._greet_at:
                    self._greet, self._greet_at = False, now + _GREET_EVERY_S
                    self._fresh = self._urgent = self._state is not None
                    if self._config_topic:
                        batch.append((self._config_topic, self._config, True))
                    batch.append(("availability", "online", True))
                # 2. The newest state, if it is due.
                due = self._urgent or closing or now - self._state_sent >= _STATE_EVERY_S
                if self._connected and self._fresh and due:
                    self._fresh = self._urgent = False
                    self._state_sent = now
                    batch.append(("state", _json(self._state), True))
                # 3. Events, the oldest first.
                while self._connected and self._events and len(batch) < _BATCH:
                    batch.append(("events", self._events.popleft(), False))
                # Closing without a connection, it waits for one, unless an attempt has failed or time is up.
                hopeless = self._connected or self._trouble or now > (self._deadline or 0.0)
                if batch or (closing and hopeless):
                    return batch
                self._changed.wait(_LOOK_S)
            if not self._connected:
                self._watch_silence()

    def _send(self, batch: list[tuple[str, str, bool]]) -> bool:
        """Publish a batch and wait until the broker has confirmed each; False when closing leaves no time."""
        self._heard = time.monotonic()
        sent = set()
        for topic, payload, retain in batch:
            topic = topic if topic == self._config_topic else f"{self.broker.prefix}/{topic}"
            sent.add(self._client.publish(topic, payload, qos=1, retain=retain).mid)
        while True:
            with self._changed:
                if sent <= self._acknowledged:
                    self._acknowledged.clear()
                    return True
                if self._deadline is not None and time.monotonic() > self._deadline:
                    return False
                self._changed.wait(_LOOK_S)
            self._watch_silence()

    def _watch_silence(self) -> None:
        """Report a broker that owes an answer, and close a connection on which it confirms nothing.

        paho itself notices neither: such a broker may well answer its pings. A connection that the broker
        does not accept ends by paho's keepalive.
        """
        silent = time.monotonic() - self._heard
        if silent >= _SILENT_S and not self._trouble and self._deadline is None:
            self._unconfirmed = self._connected
            what = "confirms nothing that is sent" if self._connected else "does not answer"
            self._warn(f"the broker {what} for {_SILENT_S:.0f} s")
        if silent >= _GIVE_UP_S and self._connected:
            self._heard = time.monotonic()
            sock = self._client.socket()
            with suppress(OSError):  # paho finds its end, connects again, and sends what was not confirmed
                if isinstance(sock, socket.socket):
                    # Past TLS, whose own shutdown must not run while paho's thread reads.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    # ---- the connection: what follows is called by paho's thread, except for `_make_client` --------

    def _make_client(self, ca_file: Path | None) -> _Client:
        client = _Client(CallbackAPIVersion.VERSION2, client_id=f"edge-centernet-{self.run[:8]}")
        client.will_set(f"{self.broker.prefix}/availability", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, _RETRY_MAX_S)
        if self.broker.user is not None:
            client.username_pw_set(self.broker.user, self.broker.password)
        if self.broker.tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=ca_file))
            except OSError as error:  # ssl.SSLError is one
                raise ConfigError(f"MQTT: {ca_file}: expected certificates to trust (PEM): {error}") from None
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail, client.on_publish = self._on_connect_fail, self._on_publish
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: Client, userdata: object, flags: object, reason: Any, properties: object
    ) -> None:
        if reason.is_failure:
            self._warn(f"it refuses the connection: {reason}")
            return
        if self._config_topic and not self._client.too_large:
            client.subscribe(self._birth_topic, qos=1)
        if self._reset_room is not None and not self._client.too_large:
            client.subscribe(self._command_topic, qos=1)
        with self._changed:
            waiting, self._dropped, dropped = len(self._events), 0, self._dropped
            self._connected = self._greet = True
            self._greet_at, self._heard = float("-inf"), time.monotonic()
            self._changed.notify_all()
        if self._unconfirmed:  # it accepted the last connection, too
            return
        self._trouble = ""
        lost = f", {dropped} older ones are lost" if dropped else ""
        queued = f"; {waiting} events to send{lost}" if waiting else ""
        _log.info("MQTT: connected to %s%s", self.broker.public, queued)

    def _on_disconnect(
        self, client: Client, userdata: object, flags: object, reason: Any, properties: object
    ) -> None:
        with self._changed:
            was, self._connected = self._connected, False
            self._heard = time.monotonic() if was else self._heard
        if not was or self._deadline is not None or self._unconfirmed:
            return
        if self._client.too_large:
            self._warn(
                f"it sends a message of more than {_MAX_PACKET} bytes; from now on nobody listens on "
                f"{self._birth_topic} for a new start of Home Assistant, nor for commands"
            )
        else:
            self._warn("connection lost")

    def _on_connect_fail(self, client: Client, userdata: object) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles the exception, and passes nothing of it
        self._warn(str(getattr(error, "strerror", None) or error or "no connection"))

    def _on_publish(
        self, client: Client, userdata: object, mid: int, reason: object, properties: object
    ) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._heard = time.monotonic()
            self._changed.notify_all()
        if self._unconfirmed:
            self._unconfirmed, self._trouble = False, ""
            _log.info("MQTT: %s confirms what is sent again", self.broker.public)

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        """Home Assistant has started, and may have forgotten the device: announce it again. Or a command."""
        if message.topic == self._command_topic:
            if not message.retain:  # one of last year would come again at every start
                self._obey(message.payload)
        elif message.payload == b"online":
            with self._changed:
                self._greet = True
                self._changed.notify_all()

    def _obey(self, payload: bytes | bytearray) -> None:
        """Do what a command says; one that is none is a line in the log, and nothing else."""
        try:
            command = json.loads(payload)
            if not isinstance(command, dict) or not {"reset"} <= set(command) <= {"reset", "inside"}:
                raise ConfigError("no such command")
            if self._reset_room is not None:
                self._reset_room(command["reset"], command.get("inside", 0))
        except (ValueError, RecursionError, ConfigError) as error:
            reason = str(error) if isinstance(error, ConfigError) else "it is not JSON"
            _log.warning(
                'MQTT: %s: expected {"reset": ROOM, "inside": NUMBER}: %s', self._command_topic, reason[:200]
            )

    def _warn(self, trouble: str) -> None:
        """One line per outage: the attempts that follow fail alike, or differently for a moment."""
        if not self._trouble:
            text = "MQTT: %s: %s; detection goes on, counts are kept, trying again"
            _log.warning(text, self.broker.public, trouble)
        self._trouble = trouble


def _counts(tally: Tally | None) -> tuple[Any, ...]:
    """What must be published at once when it changes; how long somebody stays changes with every frame."""
    if tally is None:
        return ()
    zones = [(zone.name, zone.inside, zone.entered, zone.queue and zone.queue.length) for zone in tally.zones]
    return tally.lines, tally.rooms, zones, [rule.active for rule in tally.rules]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
