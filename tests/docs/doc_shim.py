"""Stands behind every program name in the sandbox of a documented block: applies the stand-ins, keeps a record.

    python doc_shim.py NAME ARGUMENTS...

$DOC_COMMANDS names a JSON file: {stand_ins: [...], real: {name: [program, ...]}, path, log, port}. Standard library
only: it starts for every command of a block.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

RESULTS = 8  # records after which a live command is stopped
PATIENCE_S = 120.0


def main() -> int:
    """Run NAME with the stand-ins that apply; its exit status."""
    with open(os.environ["DOC_COMMANDS"], encoding="utf-8") as file:
        setup: dict[str, Any] = json.load(file)
    name, words = sys.argv[1], sys.argv[2:]
    if name == "sudo":
        return _sudo(words)
    text = shlex.join(words).replace("'", "")
    rules = [rule for rule in setup["stand_ins"] if rule["program"] == name and re.search(rule["when"], text)]
    entry: dict[str, Any] = {"program": name, "words": words, "why": [rule["why"] for rule in rules]}
    if any(rule["exempt"] for rule in rules):
        return _log(setup, {**entry, "exempt": True, "status": 0})
    program = setup["real"].get(name)
    for rule in rules:
        words = [_replaced(word, rule["replace"]) for word in words] + rule["add"]
        program = rule["instead"] or program
    if program is None:
        print(f"{name} {text}: expected a stand-in in doc_stand_ins.py, found none that fits", file=sys.stderr)
        return _log(setup, {**entry, "exempt": False, "status": 127})
    environment = {**os.environ, "PATH": setup["path"]}
    for rule in rules:
        environment.update(rule["env"])
    command = [*program, *words]
    begin = time.monotonic()
    ends = next((rule["ends"] for rule in rules if rule["ends"]), None)
    if ends:
        status = _fails_as_expected(command, environment, *ends)
    elif any(rule["live"] for rule in rules):
        status = _live(command, environment, setup["port"] if "--serve" in words else 0)
    else:
        status = subprocess.run(command, env=environment).returncode
    entry |= {
        "ran": command,
        "exempt": False,
        "ends": bool(ends),
        "status": status,
        "seconds": round(time.monotonic() - begin, 1),
    }
    return _log(setup, entry)


def _replaced(word: str, replace: dict[str, str]) -> str:
    return next((instead for pattern, instead in replace.items() if re.fullmatch(pattern, word)), word)


def _sudo(words: list[str]) -> int:
    """Whoever runs the tests is who may do it: the command, by the same stand-ins."""
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        key, _, value = words.pop(0).partition("=")
        os.environ[key] = value
    if words[0].startswith("/"):  # on a board: not there here
        words = [sys.executable, __file__, *words]
    return subprocess.run(words).returncode


def _log(setup: dict[str, Any], entry: dict[str, Any]) -> int:
    with open(setup["log"], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return int(entry["status"])


def _fails_as_expected(command: list[str], environment: dict[str, str], status: int, says: str) -> int:
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode == status and says in done.stderr:
        return 0
    print(f"expected exit status {status} and {says!r}, got {done.returncode}", file=sys.stderr)
    return 99


def _live(command: list[str], environment: dict[str, str], port: int) -> int:
    """Until it gave RESULTS records and, where it serves a page, says that it is healthy; then SIGTERM, as systemd."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    assert process.stdout is not None
    for number, line in enumerate(process.stdout, 1):
        print(line, end="")
        if number == RESULTS:
            healthy = not port or _healthy(port)
            process.send_signal(signal.SIGTERM)
            if not healthy:
                print(f"expected /healthz and the page of port {port}, got no good answer", file=sys.stderr)
                process.wait()
                return 98
    watchdog.cancel()
    return process.wait()


def _healthy(port: int) -> bool:
    for page in ("healthz", ""):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10) as answer:
                if answer.status != 200:
                    return False
        except urllib.error.URLError as error:
            print(error, file=sys.stderr)
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
