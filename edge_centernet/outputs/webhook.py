"""Events to the web servers that the settings name, one POST each, signed.

    POST /hook HTTP/1.1
    Content-Type: application/json
    Edge-Centernet-Signature: t=1796040000,v1=HMAC-SHA256 of "1796040000.BODY" in hexadecimal
    Idempotency-Key: the event's id

A message stays in a queue on the disk until its receiver has answered with a status of 2xx. Each receiver has
a thread, so that one that is away delays no other; the detection loop only adds to the queue.
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import random
import re
import socket
import ssl
import threading
import time
import uuid
from base64 import b64encode
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from edge_centernet import __version__
from edge_centernet.camera_config import check_webhook
from edge_centernet.errors import ConfigError, printable
from edge_centernet.files import Unwritten
from edge_centernet.outputs import Silent
from edge_centernet.outputs.event_media import event_file
from edge_centernet.outputs.history import Clock
from edge_centernet.outputs.webhook_queue import Message, WebhookQueue
from edge_centernet.tracking.state import Event, Snapshot

SECRET_VARIABLE = "EDGE_CENTERNET_WEBHOOK_SECRET"
MESSAGES_KEPT = 10_000  # for each receiver: some 8 MB
_KEPT_S = 7 * 86_400.0
_TIMEOUT_S = 10.0  # without a sign of the receiver
_LONGEST_S = 30.0  # for a whole exchange, however slowly it goes on
_PAUSE_S, _PAUSE_MAX_S = 1.0, 300.0  # after the first failed attempt, doubled after each, and at most
_RETRY_AFTER_MAX_S = 86_400.0
_SET_BACK = 5  # answers that are errors, after which others come before this message
_PICTURE_S = 5.0  # a picture that is not there so long after its event never comes
_FLUSH_EVERY_S = 10.0
_RETRIED = frozenset((408, 409, 425, 429))  # of 4xx: the same request may succeed later

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Webhook:
    """A receiver.

    name: how it is called in logs and metrics. key: of its messages in the queue.
    target: path and query of the address. user: "user:password" for Basic authentication, or "".
    secret: signs the messages; no signature where it is empty.
    events, places: kinds of events and names of lines, zones and rooms; all where empty.
    snapshot: whether messages carry the event's picture.
    """

    name: str
    key: str
    tls: bool
    host: str
    port: int
    target: str = field(repr=False)
    user: str = field(repr=False)
    secret: str = field(repr=False)
    events: frozenset[str]
    places: frozenset[str]
    snapshot: bool
    ca_file: Path | None

    def wants(self, event: Event) -> bool:
        """Whether the receiver is to be told of it."""
        return (not self.events or event.kind in self.events) and (
            not self.places or event.where in self.places
        )


def parse_webhook(text: str, number: int, places: Sequence[str]) -> Webhook:
    """A receiver from a URL, or from a JSON object as `camera_config` makes of a table [[webhook]].

    number: its place among several, for messages. places: names of the lines, zones and rooms that there are.
    Raises ConfigError, which shows no more of the address than its host.
    """
    where = f"webhook {number}"
    table: dict[str, Any] = {"url": text}
    if text.lstrip().startswith("{"):
        try:
            table = json.loads(text)
        except ValueError:
            raise ConfigError(f"{where}: expected a URL or a JSON object, got neither") from None
        check_webhook(table, where)
    expected = "expected https://[user:password@]host[:port]/path"
    try:
        parts = urlsplit(table["url"])
        port, host = parts.port, parts.hostname or ""
        host.encode("idna")  # as the connection will: a name that cannot exist is an error now
    except (ValueError, UnicodeError):  # whose own text may quote a password
        raise ConfigError(
            f"{where}: {expected}, got a host or port that cannot be; is a / or @ not escaped?"
        ) from None
    if parts.scheme not in ("https", "http") or not host or port == 0 or parts.fragment:
        raise ConfigError(f"{where}: {expected}, got another scheme, no host, port 0, or a #")
    if parts.scheme == "http" and not table.get("plain") and not _is_loopback(host):
        raise ConfigError(
            f"{where}: {host}: expected https://; over http:// everybody on the way can read and change what "
            "is sent. Where that is acceptable, as in a network of your own, write plain = true in its "
            "[[webhook]]"
        )
    if unknown := sorted(set(table.get("places", ())) - set(places)):
        raise ConfigError(
            f"{where}: places: expected lines, zones and rooms that there are "
            f"({', '.join(places) or 'none'}), got {', '.join(unknown)}"
        )
    user = ":".join(unquote(part or "") for part in (parts.username, parts.password))
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?[]')}" if parts.query else ""
    return Webhook(
        name=table.get("name") or host,
        key=hashlib.sha256(table["url"].encode()).hexdigest()[:16],
        tls=parts.scheme == "https",
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        target=path + query,
        user="" if user == ":" else user,
        secret=table.get("secret") or os.environ.get(SECRET_VARIABLE, ""),
        events=frozenset(table.get("events", ())),
        places=frozenset(table.get("places", ())),
        snapshot=table.get("snapshot", False),
        ca_file=Path(table["ca_file"]) if table.get("ca_file") else None,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The value of the header that proves who sent this body, and when (seconds since 1970)."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


@dataclass(frozen=True)
class WebhookState:
    """How a receiver does, since this process began.

    queued: messages that wait. sent: that it has taken. failed: that it refused, or that were dropped because
    they were too many or too old. trouble: why nothing reaches it now, for people; "" while all is well.
    """

    name: str
    queued: int
    sent: int
    failed: int
    trouble: str


class WebhookOutput(Silent):
    """Queues a message for each event and receiver; threads send them."""

    def __init__(
        self,
        hooks: Sequence[Webhook],
        queue: Path,
        *,
        camera: str,
        clock: Clock,
        live: bool,
        events_dir: Path | None = None,
        unwritten: Unwritten | None = None,
    ) -> None:
        """Go on with what an earlier process has left.

        Args:
            hooks: who is told.
            queue: file of what is not sent yet.
            camera: its name in the messages.
            clock: times of events, as all outputs have them.
            live: whether frames come in real time; at the end of a file there is time to send what waits.
            events_dir: where the pictures of events are.
            unwritten: is told what the disk does not take.

        Raises ConfigError for certificates that cannot be read, a picture that is wanted where none is
        written, two receivers of one name or address, and a queue that cannot be used.
        """
        for what in ("name", "key"):
            known = [getattr(hook, what) for hook in hooks]
            if len(set(known)) < len(known):
                twice = next(hook.name for hook in hooks if known.count(getattr(hook, what)) > 1)
                raise ConfigError(f"webhooks: expected different addresses and names, got {twice} twice")
        for hook in hooks:
            if hook.snapshot and events_dir is None:
                raise ConfigError(f"webhook {hook.name}: its snapshots need a folder: expected --events-dir")
        self._camera, self._clock, self._live = camera, clock, live
        contexts = [_context(hook) if hook.tls else None for hook in hooks]
        self._queue = WebhookQueue(queue, clock.at(time.monotonic()), unwritten)
        self._senders = {
            hook.key: _Sender(hook, context, self._queue, events_dir)
            for hook, context in zip(hooks, contexts, strict=True)
        }
        # Of a receiver that was taken out of the settings nothing can be sent.
        left: dict[str, list[Message]] = {}
        for message in self._queue.left:
            left.setdefault(message.hook, []).append(message)
        for key, messages in left.items():
            if key in self._senders:
                self._senders[key].add(messages)
            else:
                self._queue.remove([message.id for message in messages])
                _log.warning(
                    "%s: %d messages are dropped: their webhook is not in the settings any more",
                    queue,
                    len(messages),
                )
        for sender in self._senders.values():
            sender.start()
        self._ended = threading.Event()
        self._flusher = threading.Thread(target=self._flush, name="webhook-disk", daemon=True)
        self._flusher.start()

    def states(self) -> list[WebhookState]:
        """How each receiver does."""
        return [sender.state for sender in self._senders.values()]

    def update(self, snapshot: Snapshot) -> None:
        """Queue the events of a frame; when it returns, a killed process loses none of them."""
        self._clock.jump()  # where a store has asked before, it has followed the jump already
        if snapshot.tally is None or not snapshot.tally.events:
            return
        now_ms = self._clock.of(snapshot.frame, self._live)
        bodies = []
        for event in snapshot.tally.events:
            wanted = [sender.hook for sender in self._senders.values() if sender.hook.wants(event)]
            if not wanted:
                continue
            body = json.dumps(
                {
                    "schema": 1,
                    "id": uuid.uuid4().hex,
                    "time": _iso(now_ms),
                    "camera": self._camera,
                    "event": event.as_dict(),
                    "counts": snapshot.tally.as_dict(),
                },
                ensure_ascii=False,
                allow_nan=False,
            )
            picture = event_file(now_ms, event.kind, event.track_id)
            bodies += [(hook.key, body, picture if hook.snapshot else "") for hook in wanted]
        if bodies:
            for message in self._queue.add(bodies, self._clock.at(time.monotonic())):
                self._senders[message.hook].add([message])

    def close(self) -> None:
        """Send what is left, for a few seconds; the queue keeps the rest for the next run."""
        until = time.monotonic() + (4.0 if self._live else _LONGEST_S)
        for sender in self._senders.values():
            sender.stop(until)
        for sender in self._senders.values():
            sender.join(until)
        self._ended.set()
        self._flusher.join()
        self._queue.close()
        if waiting := sum(state.queued for state in self.states()):
            _log.warning("%s: %d messages wait for the next run", self._queue.path, waiting)

    def _flush(self) -> None:
        while not self._ended.wait(_FLUSH_EVERY_S):
            self._queue.flush()


class _Sender:
    """Sends the messages of one receiver, on a thread of its own, the oldest first."""

    def __init__(
        self, hook: Webhook, tls: ssl.SSLContext | None, queue: WebhookQueue, events_dir: Path | None
    ) -> None:
        self.hook = hook
        self._tls, self._queue, self._events_dir = tls, queue, events_dir
        self._changed = threading.Condition()  # guards the following; never held while anything is sent
        self._waiting: deque[Message] = deque()
        self._sent = self._failed = self._dropped = 0
        self._trouble = ""
        self._told: set[str] = set()  # kinds of trouble that are in the log
        self._until = float("inf")  # when to stop, time.monotonic()
        self._failures = 0  # attempts in a row
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    @property
    def state(self) -> WebhookState:
        with self._changed:
            return WebhookState(self.hook.name, len(self._waiting), self._sent, self._failed, self._trouble)

    def start(self) -> None:
        self._thread.start()

    def add(self, messages: Sequence[Message]) -> None:
        with self._changed:
            self._waiting.extend(messages)
            extra = [self._waiting.popleft() for _ in range(len(self._waiting) - MESSAGES_KEPT)]
            self._changed.notify_all()
        self._drop(extra, f"more than {MESSAGES_KEPT} messages wait")

    def stop(self, until: float) -> None:
        """Begin nothing new after this time, and nothing at all where the receiver is away."""
        with self._changed:
            self._until = until
            self._changed.notify_all()

    def join(self, until: float) -> None:
        self._thread.join(max(0.5, until - time.monotonic()))

    def _run(self) -> None:
        while (message := self._next()) is not None:
            try:
                pause = self._deliver(message)
            except Exception:  # a message that cannot be made must not end the thread
                _log.exception("webhook %s: a message is left out", self.hook.name)
                self._finish(message, sent=False)
                continue
            if pause:
                with self._changed:
                    self._changed.wait_for(self._stopping, pause)

    def _stopping(self) -> bool:
        return self._until != float("inf")

    def _next(self) -> Message | None:
        """The message to send now, which stays in the queue; None when it is time to stop."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping(), 60.0)
                if self._stopping() and (
                    not self._waiting or self._trouble or time.monotonic() >= self._until
                ):
                    return None
                old = []
                while self._waiting and time.monotonic() - self._waiting[0].since > _KEPT_S:
                    old.append(self._waiting.popleft())
                message = self._waiting[0] if self._waiting else None
            self._drop(old, f"they are older than {_KEPT_S / 86_400:g} days")
            if message is not None:
                return message

    def _drop(self, messages: Sequence[Message], reason: str) -> None:
        if not messages:
            return
        self._queue.remove([message.id for message in messages])
        with self._changed:
            self._failed += len(messages)
            first, self._dropped = not self._dropped, self._dropped + len(messages)
        if first:  # the sum follows when the receiver is back
            _log.warning("webhook %s: %s; the oldest are dropped from now on", self.hook.name, reason)

    def _finish(self, message: Message, sent: bool) -> None:
        """It needs no further attempt."""
        self._queue.remove([message.id])
        with self._changed:
            with suppress(ValueError):  # too many came meanwhile, and it was dropped
                self._waiting.remove(message)
            self._sent += sent
            self._failed += not sent

    def _deliver(self, message: Message) -> float:
        """One attempt; seconds to wait before the next one."""
        retry_after, answered = 0.0, False
        try:
            status, reason, header = self._post(self._body(message), message)
        except (OSError, http.client.HTTPException, ValueError) as error:
            trouble = _in_words(error)
        else:
            answered = True
            if 200 <= status < 300:
                self._finish(message, sent=True)
                self._reached()
                return 0.0
            trouble = printable(f"it answers {status} {reason}").strip()
            if 400 <= status < 500 and status not in _RETRIED:
                self._finish(message, sent=False)
                self._tell("refused", f"{trouble}; such messages are not sent again")
                self._failures = 0
                return 0.0
            if 300 <= status < 400:
                trouble += ": redirects are not followed, put the new address into the settings"
            retry_after = _retry_after(header)
        self._tell("away", f"{trouble}; messages wait and are sent again")
        message.tries += 1
        self._failures += 1
        if answered and message.tries % _SET_BACK == 0:
            # Perhaps it is this message that the receiver cannot take.
            with self._changed:
                if self._waiting and self._waiting[0] is message:
                    self._waiting.rotate(-1)
        pause = min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** min(self._failures - 1, 20))
        # At random, so that the cameras of a house do not all come back in the same second.
        return max(retry_after, pause * random.uniform(0.5, 1.0))

    def _body(self, message: Message) -> bytes:
        if not message.picture or self._events_dir is None:
            return message.body.encode()
        path = self._events_dir / message.picture
        while not path.exists() and time.monotonic() - message.since < _PICTURE_S:
            with self._changed:
                if self._changed.wait_for(lambda: time.monotonic() >= self._until, 0.05):
                    break
        picture = None
        with suppress(OSError):  # it could not be written, or is deleted already
            picture = b64encode(path.read_bytes()).decode()
        return f'{message.body[:-1]}, "snapshot": {json.dumps(picture)}}}'.encode()

    def _post(self, body: bytes, message: Message) -> tuple[int, str, str]:
        """Status, its words and the header Retry-After of the answer. Raises OSError and HTTPException."""
        hook = self.hook
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edge-centernet/{__version__}",
            "Idempotency-Key": json.loads(message.body)["id"],
            "Connection": "close",  # an idle connection may be gone, and then nobody knows what arrived
        }
        if hook.user:
            headers["Authorization"] = f"Basic {b64encode(hook.user.encode()).decode()}"
        if hook.secret:
            # The time of the attempt: a message that waited for days is not a replay.
            headers["Edge-Centernet-Signature"] = signature(hook.secret, int(time.time()), body)
        connection = self._connect()
        # A receiver that sends a byte now and then would hold this thread for ever.
        alarm = threading.Timer(_LONGEST_S, _shut_down, [connection])
        alarm.daemon = True
        alarm.start()
        try:
            connection.request("POST", hook.target, body, headers)
            answer = connection.getresponse()
            # What else it says is not read: the status is all that counts.
            return answer.status, answer.reason, answer.headers.get("Retry-After", "")
        finally:
            alarm.cancel()
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        """Not connected yet. For https:// by way of the proxy that the environment names, if it does."""
        hook = self.hook
        if self._tls is None:
            return http.client.HTTPConnection(hook.host, hook.port, timeout=_TIMEOUT_S)
        proxy = urlsplit(getproxies().get("https", ""))
        if not proxy.hostname or proxy_bypass(hook.host):
            return http.client.HTTPSConnection(hook.host, hook.port, timeout=_TIMEOUT_S, context=self._tls)
        through = http.client.HTTPSConnection(
            proxy.hostname, proxy.port or 8080, timeout=_TIMEOUT_S, context=self._tls
        )
        through.set_tunnel(hook.host, hook.port)
        return through

    def _reached(self) -> None:
        with self._changed:
            trouble, self._trouble, self._failures = self._trouble, "", 0
            self._told.clear()
            waiting, dropped, self._dropped = len(self._waiting), self._dropped, 0
        if trouble:
            lost = f", {dropped} older ones are lost" if dropped else ""
            _log.warning("webhook %s: it takes messages again; %d to send%s", self.hook.name, waiting, lost)

    def _tell(self, kind: str, trouble: str) -> None:
        """One line of each kind until it takes a message again: the attempts that follow fail alike."""
        with self._changed:
            self._trouble = trouble
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("webhook %s: %s", self.hook.name, trouble)


def _context(hook: Webhook) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if hook.ca_file is not None:
        try:
            context.load_verify_locations(hook.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"webhook {hook.name}: {hook.ca_file}: expected certificates to trust (PEM): {error}"
            ) from None
    return context


def _shut_down(connection: http.client.HTTPConnection) -> None:
    if isinstance(sock := connection.sock, socket.socket):
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # past TLS, whose own shutdown waits for an answer


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"no answer for {_TIMEOUT_S:.0f} s"
    if isinstance(error, (http.client.HTTPException, ConnectionResetError, BrokenPipeError)):
        return "it closed the connection without an answer"
    return printable(str(getattr(error, "strerror", None) or error or type(error).__name__))


def _retry_after(header: str) -> float:
    """Seconds that a header Retry-After asks for: a number, or a date. 0 for none and for nonsense."""
    if re.fullmatch(r"\s*\d{1,9}\s*", header):
        return min(float(header), _RETRY_AFTER_MAX_S)
    with suppress(ValueError, TypeError, OverflowError):
        wait = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        return min(max(wait, 0.0), _RETRY_AFTER_MAX_S)
    return 0.0


def _iso(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"
