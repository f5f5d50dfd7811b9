"""Events reach who is named in the settings, once and signed, whatever receivers and processes do."""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from receiver import Receiver, make_ca, wait_until
from snapshots import CLASSES, counted, crossing, snapshot

from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten
from edge_centernet.outputs import webhook
from edge_centernet.outputs.history import Clock
from edge_centernet.outputs.prometheus import Metrics
from edge_centernet.outputs.webhook import WebhookOutput, parse_webhook

SECRET = "f00d-cafe"
_connects: list[Any] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        _connects.append(args[1])


sys.addaudithook(_note)  # every connection that Python code makes


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that no system trusts."""
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def receiver(ca: Path) -> Iterator[Receiver]:
    """Running, over HTTPS."""
    server = Receiver(ca.parent)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses and patience of a test."""
    monkeypatch.setattr(webhook, "_PAUSE_S", 0.02)
    monkeypatch.setattr(webhook, "_PAUSE_MAX_S", 0.1)
    monkeypatch.setattr(webhook, "_TIMEOUT_S", 1.0)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)


def output(folder: Path, *tables: dict[str, Any], **options: Any) -> WebhookOutput:
    """At work for these receivers, with the queue in `folder`."""
    hooks = [parse_webhook(json.dumps(table), n + 1, ["door", "shop"]) for n, table in enumerate(tables)]
    return WebhookOutput(hooks, folder / "queue.db", camera="Front door", clock=Clock(), live=True, **options)


def send(hooks: WebhookOutput, *numbers: int) -> None:
    """Let these people go in by the door, each in a frame of its own."""
    for number in numbers:
        hooks.update(snapshot(number, tally=counted(number, 0, crossing(number))))


def ids(receiver: Receiver) -> list[int]:
    """Whose messages were taken, in order."""
    return [message["event"]["id"] for message in receiver.taken()]


def test_a_message_says_what_happened_and_proves_who_sent_it(
    tmp_path: Path, receiver: Receiver, ca: Path
) -> None:
    """The documented fields, and a signature that openssl computes alike."""
    hooks = output(tmp_path, {"url": receiver.url, "secret": SECRET, "ca_file": str(ca)})
    before = time.time()
    send(hooks, 7)
    wait_until(lambda: receiver.got)
    hooks.close()
    ((_, headers, body),) = receiver.got
    message = json.loads(body)
    assert (message["schema"], message["camera"], len(message["id"])) == (1, "Front door", 32)
    assert message["event"] == crossing(7).as_dict()
    assert message["counts"] == counted(7).as_dict()
    assert message["time"].endswith("Z")
    assert headers["Idempotency-Key"] == message["id"]
    stamp, given = (part.partition("=")[2] for part in headers["Edge-Centernet-Signature"].split(","))
    assert before - 1 <= int(stamp) <= time.time()
    said = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", SECRET],
        input=f"{stamp}.".encode() + body,
        capture_output=True,
        check=True,
    )
    assert said.stdout.decode().split()[-1] == given


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_the_documented_checks_accept_ours_and_nothing_else(language: str) -> None:
    """As they stand in docs/events.md: the right secret, body and time, and none of them changed."""
    page = Path(__file__).parents[2] / "docs/events.md"
    code = page.read_text(encoding="utf-8").partition(f"```{language}\n")[2].partition("```")[0]
    assert code
    now = int(time.time())
    body = b'{"id": "\xc3\xa9"}'
    cases = [
        (webhook.signature(SECRET, now, body), True),
        (webhook.signature("another", now, body), False),
        (webhook.signature(SECRET, now, body + b" "), False),
        (webhook.signature(SECRET, now - 900, body), False),
    ]
    if language == "python":
        names: dict[str, Any] = {}
        exec(code, names)
        found = [names["genuine"](header, body, SECRET) for header, _ in cases]
    else:
        if shutil.which("node") is None:
            pytest.skip("no node: apt-get install nodejs")
        calls = f"const body = Buffer.from({json.dumps(body.decode())});\n" + "".join(
            f"console.log(genuine({json.dumps(header)}, body, {json.dumps(SECRET)}));\n"
            for header, _ in cases
        )
        done = subprocess.run(["node", "-e", code + calls], capture_output=True, text=True, check=True)
        found = [line == "true" for line in done.stdout.split()]
    assert found == [good for _, good in cases]


def test_whatever_the_receiver_does_each_message_arrives_once(
    tmp_path: Path, receiver: Receiver, ca: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers with errors, closes, hangs, redirects to another server and goes away; then it recovers."""
    other = Receiver()
    elsewhere = {"Location": other.url}
    receiver.plan.extend([500, "close", (307, elsewhere), (301, elsewhere), "hang"])
    receiver.plan.extend([(429, {"Retry-After": "1"}), 204, 503, 425])
    _connects.clear()
    hooks = output(tmp_path, {"url": receiver.url, "ca_file": str(ca)})
    with caplog.at_level(logging.INFO):
        send(hooks, 1, 2, 3)
        wait_until(lambda: len(receiver.taken()) == 3)
        receiver.close()
        send(hooks, 4, 5)
        wait_until(lambda: hooks.states()[0].trouble.startswith("Connection refused"))
        again = Receiver(ca.parent, receiver.port)
        wait_until(lambda: not hooks.states()[0].queued)
    (state,) = hooks.states()
    hooks.close()
    again.close()
    other.close()
    assert (ids(receiver), ids(again), other.got) == ([1, 2, 3], [4, 5], [])
    assert (state.queued, state.sent, state.failed, state.trouble) == (0, 5, 0, "")
    assert {address[1] for address in _connects} == {receiver.port}
    # The same id in every attempt, and a line for each outage and each recovery.
    assert len({headers["Idempotency-Key"] for _, headers, _ in receiver.got}) == 3
    said = [record.message for record in caplog.records if record.message.startswith("webhook localhost: ")]
    assert 3 <= len(said) <= 6
    assert said[0] == (
        "webhook localhost: it answers 500 Internal Server Error; messages wait and are sent again"
    )
    assert said[-1] == "webhook localhost: it takes messages again; 1 to send"


def test_retry_after_is_waited_for(tmp_path: Path, receiver: Receiver, ca: Path) -> None:
    """A second, where the pause would have been a fiftieth of it."""
    receiver.plan.append((503, {"Retry-After": "1"}))
    hooks = output(tmp_path, {"url": receiver.url, "ca_file": str(ca)})
    send(hooks, 1)
    wait_until(lambda: receiver.got)
    begin = time.monotonic()
    wait_until(lambda: receiver.taken())
    assert time.monotonic() - begin > 0.9
    hooks.close()


def test_what_is_refused_is_not_sent_again(
    tmp_path: Path, receiver: Receiver, ca: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows better the second time; the log has one line of it, health the reason."""
    receiver.plan.extend([401, 401, 401])
    hooks = output(tmp_path, {"url": receiver.url, "ca_file": str(ca)})
    send(hooks, 1, 2, 3)
    wait_until(lambda: hooks.states()[0].failed == 3)
    assert hooks.states()[0].trouble == "it answers 401 Unauthorized; such messages are not sent again"
    send(hooks, 4)
    wait_until(lambda: receiver.taken())
    wait_until(lambda: hooks.states()[0].trouble == "")
    hooks.close()
    assert ids(receiver) == [4]
    assert sum("401" in record.message for record in caplog.records) == 1


def test_one_message_that_fails_does_not_hold_up_the_others(
    tmp_path: Path, receiver: Receiver, ca: Path
) -> None:
    """After five answers that are errors the next one gets its turn."""
    receiver.plan.extend([500] * 5)
    hooks = output(tmp_path, {"url": receiver.url, "ca_file": str(ca)})
    send(hooks, 1, 2, 3)
    wait_until(lambda: len(receiver.taken()) == 3)
    hooks.close()
    assert ids(receiver) == [2, 3, 1]


def test_a_stranger_gets_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """Whose certificate the system does not trust; the message waits."""
    hooks = output(tmp_path, {"url": receiver.url})
    send(hooks, 1)
    wait_until(lambda: hooks.states()[0].trouble.startswith("its certificate is not trusted: "))
    hooks.close()
    assert (receiver.got, hooks.states()[0].queued) == ([], 1)


def test_receivers_do_not_wait_for_each_other_and_get_what_they_want(
    tmp_path: Path, receiver: Receiver, ca: Path
) -> None:
    """One is away; another wants the shop alone."""
    away = Receiver()
    away.close()
    hooks = output(
        tmp_path,
        {"url": away.url, "name": "away"},
        {"url": receiver.url, "ca_file": str(ca), "name": "all"},
        {"url": receiver.url + "2", "ca_file": str(ca), "name": "shop", "places": ["shop"]},
        {"url": receiver.url + "3", "ca_file": str(ca), "name": "left", "events": ["left"]},
    )
    send(hooks, 1)
    wait_until(lambda: hooks.states()[1].sent == 1)
    states = {state.name: (state.queued, state.sent) for state in hooks.states()}
    hooks.close()
    assert states == {"away": (1, 0), "all": (0, 1), "shop": (0, 0), "left": (0, 0)}
    # What waits for a receiver that is not in the settings any more is given up.
    output(tmp_path, {"url": receiver.url, "ca_file": str(ca)}).close()
    again = output(tmp_path, {"url": away.url, "name": "away"})
    assert again.states()[0].queued == 0
    again.close()


def test_the_queue_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In number and in age: the oldest go, the log says so once, and a restart finds the rest."""
    monkeypatch.setattr(webhook, "MESSAGES_KEPT", 50)
    away = Receiver()
    away.close()
    hooks = output(tmp_path, {"url": away.url})
    send(hooks, *range(2000))
    (state,) = hooks.states()
    hooks.close()
    assert (state.queued, state.failed) == (50, 1950)
    assert sum("the oldest are dropped" in record.message for record in caplog.records) == 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1 << 20
    receiver = Receiver(port=away.port)
    again = output(tmp_path, {"url": away.url})
    wait_until(lambda: len(receiver.got) == 50)
    again.close()
    receiver.close()
    assert ids(receiver) == list(range(1950, 2000))
    monkeypatch.setattr(webhook, "_KEPT_S", -1.0)
    old = output(tmp_path, {"url": away.url})
    send(old, 1)
    wait_until(lambda: old.states()[0].failed == 1)
    old.close()


def test_a_full_disk_does_not_stop_messages(tmp_path: Path, receiver: Receiver, ca: Path) -> None:
    """They are sent from memory, once each, and nothing of them is found later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk: needs root")
    try:
        unwritten, table = Unwritten(), {"url": receiver.url, "ca_file": str(ca)}
        hooks = output(disk, table, unwritten=unwritten)
        send(hooks, 1)
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        send(hooks, *range(2, 100))
        wait_until(lambda: len(receiver.got) == 99)
        assert "full" in unwritten.now()
        (disk / "filler").unlink()
        send(hooks, 100)
        wait_until(lambda: len(receiver.got) == 100)
        hooks.close()
        assert (unwritten.all(), ids(receiver)) == ("", list(range(1, 101)))
        output(disk, table).close()
        assert len(receiver.got) == 100
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


FEED = """
import json, sys, time
sys.path[:0] = json.loads(sys.argv[1])
from snapshots import counted, crossing, snapshot
from edge_centernet.outputs import webhook
from edge_centernet.outputs.history import Clock
webhook._PAUSE_S, webhook._PAUSE_MAX_S = 0.01, 0.05
hooks = webhook.WebhookOutput(
    [webhook.parse_webhook(sys.argv[2], 1, ["door"])], webhook.Path(sys.argv[3]),
    camera="a", clock=Clock(), live=True)
for number in range(int(sys.argv[4]), 10**9):
    hooks.update(snapshot(number, tally=counted(number, 0, crossing(number))))
    print(number, flush=True)
    time.sleep(0.002)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path, kills: int) -> None:
    """Every event that `update` has returned from arrives; twice only what was under way at the kill."""
    receiver, chance, told = Receiver(), random.Random(kills), 0
    table = json.dumps({"url": receiver.url})
    for _ in range(kills):
        receiver.plan.extend(chance.choice([204, 204, 204, 500, "close"]) for _ in range(50))
        folders = json.dumps(sys.path)
        command = [sys.executable, "-c", FEED, folders, table, str(tmp_path / "q.db"), str(told + 1)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told = int(child.stdout.readline())
        time.sleep(chance.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        whole = rest[: rest.rfind("\n") + 1].split()
        told = max([told, *map(int, whole)])
        child.stdout.close()
        child.wait()
    receiver.plan.clear()
    hooks = WebhookOutput(
        [parse_webhook(table, 1, ["door"])], tmp_path / "q.db", camera="a", clock=Clock(), live=True
    )
    wait_until(lambda: not hooks.states()[0].queued, 60)
    hooks.close()
    receiver.close()
    arrived = receiver.taken()
    assert {message["event"]["id"] for message in arrived} >= set(range(1, told + 1))
    keys = [message["id"] for message in arrived]
    assert len(keys) - len(set(keys)) <= kills


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://h/S3CRET", "expected https://"),
        ("https://:x@/S3CRET", "expected https://"),
        ("https://h:S3CRET/", "a host or port that cannot be"),
        ("http://shop.example/S3CRET", "write plain = true"),
        ('{"url": "https://h/S3CRET"', "expected a URL or a JSON object"),
        ('{"secret": "S3CRET"}', 'expected url = "https://..."'),
        ('{"url": "https://h/", "sekret": "S3CRET"}', "unknown sekret"),
        ('{"url": "https://h/S3CRET", "snapshot": "S3CRET"}', "snapshot: expected true or false, got str"),
        ('{"url": "https://h/S3CRET", "places": ["dor"]}', "that there are (door), got dor"),
    ],
)
def test_a_wrong_webhook_is_one_line_without_secrets(text: str, said: str) -> None:
    """Addresses of many services are secrets themselves."""
    with pytest.raises(ConfigError) as caught:
        parse_webhook(text, 1, ["door"])
    assert said in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_nothing_shows_the_secret() -> None:
    """Neither that, nor user, password and path."""
    hook = parse_webhook('{"url": "https://anna:pa%24s@h/private?key=k", "secret": "S"}', 1, [])
    assert (hook.user, hook.target) == ("anna:pa$s", "/private?key=k")
    assert not {"anna", "pa$s", "private", "'S'"} & set(repr(hook).replace("=", " ").split())
    assert parse_webhook('{"url": "http://nas.lan/", "plain": true}', 1, []).tls is False


def test_pictures_need_a_folder(tmp_path: Path) -> None:
    """The option to give is in the message."""
    with pytest.raises(ConfigError, match="expected --events-dir"):
        output(tmp_path, {"url": "https://localhost/", "snapshot": True})


def test_two_processes_do_not_share_a_queue(tmp_path: Path) -> None:
    """Each would send what the other has queued."""
    hooks = output(tmp_path, {"url": "https://localhost:1/"})
    with pytest.raises(ConfigError, match="a --webhook-queue of its own"):
        output(tmp_path, {"url": "https://localhost:1/"})
    hooks.close()
    (tmp_path / "queue.db").write_text("something else entirely, and not a database" * 50)
    with pytest.raises(ConfigError, match="expected a queue of webhooks"):
        output(tmp_path, {"url": "https://localhost:1/"})


def test_prometheus_sees_each_receiver(tmp_path: Path) -> None:
    """What waits, what was sent and what failed."""
    away = Receiver()
    away.close()
    hooks = output(tmp_path, {"url": away.url, "name": "till"})
    send(hooks, 1, 2)
    wait_until(lambda: hooks.states()[0].trouble)
    text = Metrics(CLASSES, webhooks=hooks.states).text().decode()
    hooks.close()
    found = {
        (sample.name.removeprefix("edge_centernet_webhook_"), sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("webhook") == "till"
    }
    assert found == {
        ("queued", None): 2,
        ("up", None): 0,
        ("messages_total", "sent"): 0,
        ("messages_total", "failed"): 0,
    }
