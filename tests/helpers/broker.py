"""A real MQTT broker in a process of its own, and a client that hears what it is told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from servers import free_port

pytest.importorskip("paho.mqtt", reason="the extra `live` is not installed")

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: apt-get install mosquitto")


class Mosquitto:
    """A broker in a process of its own, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, *settings: str) -> None:
        """settings: more lines of mosquitto.conf; anonymous clients are let in unless they say otherwise."""
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # A session that waits for messages, as Home Assistant's automations may want it, outlives the broker.
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            "user root" if os.geteuid() == 0 else "",
            *(settings or ["allow_anonymous true"]),
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        """Of topics below house/door."""
        return f"mqtt://127.0.0.1:{self.port}/house/door"

    def start(self) -> None:
        """Return when it listens."""
        command = [str(MOSQUITTO), "-c", str(self._folder / "mosquitto.conf")]
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self._folder / "mosquitto.log").read_text())

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Subscriber:
    """Hears everything from the moment it is made; a session that the broker keeps while it is away."""

    def __init__(self, port: int, *topics: str) -> None:
        """topics: filters; all unless given."""
        self.messages: list[MQTTMessage] = []
        self._topics = topics or ("#",)
        subscribed = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"test-{free_port()}", clean_session=False
        )
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in self._topics])
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda client, userdata, message: self.messages.append(message)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def payloads(self, topic: str) -> list[Any]:
        """All that came on a topic of house/door, in order; JSON where it is JSON."""
        texts = [
            message.payload.decode()
            for message in list(self.messages)
            if message.topic == f"house/door/{topic}"
        ]
        return [json.loads(text) if text.startswith("{") else text for text in texts]

    def state(self) -> dict[str, Any]:
        """The newest state; empty if none came."""
        states = self.payloads("state")
        return states[-1] if states else {}

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: str, retain: bool = False) -> None:
        """Say something, as Home Assistant does."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)
