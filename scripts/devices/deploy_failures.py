#!/usr/bin/env python3
"""Break a deploy in more than thirty ways on a machine with a real systemd; the old release must run on.

    python scripts/devices/deploy_failures.py [--only NAME]... [--json OUT]        as root; some ten minutes

Each time a board runs a release whose camera delivers pictures, something goes wrong with a new one, and it
is looked at what runs then: the release, its service, its results. Power cuts end every process of the board,
then it boots. The record is build/devices/deploy-failures.json.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import find_target
from edge_centernet.deploy.bundle import PACKAGE, Contents, make_bundle, write_tar
from edge_centernet.deploy.signing import signers_line

CONTAINER = Path(__file__).with_name("container.sh")
CACHE = Path(os.environ.get("EDGE_CENTERNET_DEVICES", "~/.cache/edge-centernet/devices")).expanduser()
BOARD = "failures"
DISK = "1200M"
WATCH_S = 6
UNIT = "edge-centernet@camera.service"
CAMERA = """\
import http.server
PICTURE = open("/srv/photo.jpg", "rb").read()
HEAD = b"--x\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(PICTURE)
class Camera(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        import time
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.end_headers()
        while True:
            self.wfile.write(HEAD + PICTURE + b"\\r\\n")
            time.sleep(0.1)
http.server.ThreadingHTTPServer(("127.0.0.1", 8090), Camera).serve_forever()
"""
CAMERA_UNIT = """\
[Service]
ExecStart=/usr/bin/python3 /srv/camera.py
Restart=always
[Install]
WantedBy=multi-user.target
"""
CONFIG = """\
camera = "http://127.0.0.1:8090/cam.mjpg"
wait = true
format = "none"
"""


class Board:
    """The machine, and what is asked of it."""

    def container(self, *words: str) -> str:
        """Run container.sh; its output."""
        done = subprocess.run(["sh", str(CONTAINER), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"container.sh {' '.join(words)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def shell(self, command: str) -> str:
        """Run a command as root on the machine; its output, whatever its exit status."""
        return self.container("exec", BOARD, "sh", "-c", f"{command}; true")

    def state(self) -> dict[str, Any]:
        """Which release is current, whether its service delivers, whether an update is on trial."""
        show = f"systemctl show {UNIT} -p ActiveState,StatusText"
        lines = self.shell(f"readlink /opt/edge-centernet/current; {show}").splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        releases = [line.partition("releases/")[2] for line in lines if line.startswith("releases/")]
        return {
            "current": next(iter(releases), ""),
            "active": found.get("ActiveState", ""),
            "status": found.get("StatusText", ""),
            "pending": "yes" in self.shell("test -e /opt/edge-centernet/pending.json && echo yes"),
        }

    def delivering(self, release: str, seconds: float = 60.0) -> bool:
        """Whether that release runs and gives results, now or soon."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.state()
            rate = re.match(r"(\d+\.\d) fps", state["status"])
            if state["current"] == release and state["active"] == "active" and rate and float(rate[1]) > 0:
                return not state["pending"]
            time.sleep(0.5)
        return False

    def power_cut(self) -> None:
        """Every process ends at once; then the board gets power again."""
        self.container("kill", BOARD)
        self.container("up", BOARD)


@dataclass
class Attempt:
    """One deploy from here, run as a user runs it: what it printed, its exit code."""

    command: list[str]
    lines: list[str] = field(default_factory=list)
    code: int = 0

    def run(self, at: str = "", act: Callable[[], None] = lambda: None, kill: bool = False) -> None:
        """Run to the end, or until a line holds `at`: then act, and end this computer's side if asked."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(self.command, start_new_session=True, **pipes)
        assert process.stdout
        rest = b""
        while block := os.read(process.stdout.fileno(), 4096):
            rest += block
            *whole, rest = re.split(rb"[\r\n]+", rest)
            self.lines += [line.decode() for line in whole if line.strip()]
            if at and at in "\n".join([*self.lines, rest.decode(errors="replace")]):
                at = ""
                act()
                if kill:
                    os.killpg(process.pid, signal.SIGKILL)
        self.lines += [rest.decode()] if rest.strip() else []
        self.code = process.wait()

    @property
    def told(self) -> str:
        """Its last word."""
        return next((line for line in reversed(self.lines) if line.strip()), "")


class Bench:
    """The board, the bundles that are deployed to it, and one failure after the other."""

    def __init__(self, folder: Path) -> None:
        """folder: for keys and bundles."""
        self.folder, self.board, self._fresh = folder, Board(), 0
        self.key, self.other_key = folder / "key", folder / "other"
        for key in (self.key, self.other_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        target = find_target("x86", engine="ai-edge-litert")
        config = folder / "camera.toml"
        config.write_text(CONFIG)
        old, new = (Contents(f"centernet-{name}", camera=config) for name in ("nano-256", "mbv2-320"))
        self.old = make_bundle(target, old, self.key, folder / "old")
        self.new = make_bundle(target, new, self.key, folder / "new")
        self.files = read_tar(self.new)
        (folder / "signers").write_text(signers_line(self.key))
        self.release = ""

    def command(self, bundle: Path) -> list[str]:
        """`edge-centernet deploy`, as a user would."""
        words = [sys.executable, "-m", "edge_centernet", "deploy", BOARD, "--bundle", str(bundle)]
        words += ["--ssh", f"-F {CACHE}/containers/ssh/config", "--watch", str(WATCH_S)]
        return [*words, "--key", str(self.key), "--signers", str(self.folder / "signers")]

    def deploy(self, bundle: Path, *how: Any, **more: Any) -> Attempt:
        """Try to; see Attempt.run."""
        attempt = Attempt(self.command(bundle))
        attempt.run(*how, **more)
        return attempt

    def begin(self) -> None:
        """A board with the old release and a camera."""
        self.board.container("down", BOARD)
        self.board.container("up", BOARD, "--disk", DISK)
        root = CACHE / "containers" / BOARD / "root"  # its files as seen from here
        (root / "srv/camera.py").write_text(CAMERA)
        (root / "srv/photo.jpg").write_bytes((PACKAGE / "assets/sample.jpg").read_bytes())
        (root / "etc/systemd/system/camera.service").write_text(CAMERA_UNIT)
        self.board.shell("systemctl daemon-reload; systemctl enable --now camera.service")
        attempt = self.deploy(self.old)
        self.release = self.board.state()["current"]
        if attempt.code or not self.board.delivering(self.release):
            raise SystemExit("the board does not run the old release: " + "\n".join(attempt.lines))

    def changed(self, name: str, key: Path | None = None, **files: bytes) -> Path:
        """The new bundle with other files in it, signed again; names with __ for /."""
        path = self.folder / f"{name}.tar"
        content = {**self.files, **{file.replace("__", "/"): data for file, data in files.items()}}
        write_tar(path, content, key or self.key)
        return path

    def fresh(self) -> Path:
        """The new bundle as one that no board has seen: its packages are installed anew."""
        self._fresh += 1
        text = self.files["requirements.txt"] + b"# %d\n" % self._fresh
        return self.changed("fresh", **{"requirements.txt": text})

    def unit(self, name: str, command: str, **settings: str) -> Path:
        """The new bundle with a service that runs another command, under other settings."""
        text = self.files[agent.UNIT].decode()
        for key, value in {"ExecStart": command, **settings}.items():
            text = re.sub(rf"^{key}=.*", lambda _, line=f"{key}={value}": line, text, flags=re.MULTILINE)
        return self.changed(name, **{agent.UNIT: text.encode()})


def read_tar(path: Path) -> dict[str, bytes]:
    """Name -> content, without hashes and signature."""
    with tarfile.open(path) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    return {name: data for name, data in found.items() if name not in (agent.SUMS, agent.SIGNATURE)}


Case = Callable[[Bench], Attempt]
# A service that connects to systemd, then does what follows.
NOTIFY = '/usr/bin/python3 -c "import os,socket,time; s=socket.socket(1,2); '
NOTIFY += "s.connect(os.environ['NOTIFY_SOCKET']); "
READY = NOTIFY + "s.send(b'READY=1'); time.sleep(1000)\""
DIES = NOTIFY + "s.send(b'READY=1'); time.sleep(3); raise SystemExit(7)\""
BLIND = NOTIFY + "s.send(b'READY=1\\\\nSTATUS=camera lost'); time.sleep(1000)\""
SLEEP = "/bin/sleep 1000"
NONSENSE = "/opt/edge-centernet/current/venv/bin/edge-centernet detect --nonsense"

# Name -> what must be told, the bundle that must be refused or taken back.
BROKEN: dict[str, tuple[str, Callable[[Bench], Path]]] = {
    "signed by somebody else": ("signature", lambda b: b.changed("stranger", b.other_key)),
    "a bit of a wheel flipped": ("SHA-256", lambda b: _flipped(b, next(n for n in b.files if "numpy" in n))),
    "a bit of the list of hashes flipped": ("signature", lambda b: _flipped(b, agent.SUMS)),
    "bundle cut short": ("", lambda b: _short(b)),
    "a file that nobody signed": ("not in the signed list", lambda b: _with_extra(b)),
    "for another processor": ("this board is x86_64", lambda b: _for(b, machine="aarch64")),
    "for another Python": ("for Python 3.13", lambda b: _for(b, python="3.13")),
    "for a newer glibc": ("need glibc", lambda b: _for(b, glibc=[2, 99])),
    "damaged model": ("check:", lambda b: _damaged_model(b)),
    "model that crashes its engine": ("check:", lambda b: _crashing_model(b)),
    "model that finds something else": ("check: expected cat", lambda b: _other_model(b)),
    "service with an option it does not know": ("ended", lambda b: b.unit("option", NONSENSE)),
    "service that dies after three seconds": ("ended", lambda b: b.unit("dies", DIES)),
    "service that never gets ready": ("ended", lambda b: b.unit("hangs", SLEEP, TimeoutStartSec="5")),
    "service without results": ("gives no results", lambda b: b.unit("blind", BLIND, WatchdogSec="0")),
    "service killed by the watchdog": ("ended", lambda b: b.unit("silent", READY, WatchdogSec="2")),
}


def cases() -> dict[str, tuple[str, Case]]:
    """Name -> (what must be told, how it goes wrong)."""
    found: dict[str, tuple[str, Case]] = {
        name: (told, lambda b, make=make: b.deploy(make(b)))  # type: ignore[misc]
        for name, (told, make) in BROKEN.items()
    }
    found["disk full before the upload"] = ("No space left", lambda b: _filled(b, at=""))
    found["disk full during the upload"] = ("", lambda b: _filled(b, at="Upload"))
    found["disk full while packages are installed"] = ("", lambda b: _filled(b, at="packages:"))
    for step in ("Upload", "verify:", "unpack:", "packages:", "check:", "switch:", "watch:"):
        name = step.strip(":").lower()
        found[f"connection cut at {name}"] = (step, lambda b, at=step: b.deploy(b.fresh(), at, kill=True))  # type: ignore[misc]
        if step not in ("verify:", "unpack:"):
            cut = lambda b, at=step: b.deploy(b.fresh(), at, b.board.power_cut)  # noqa: E731
            found[f"power cut at {name}"] = (step, cut)
    killed = "installer killed at watch, timer fires"
    found[killed] = ("", lambda b: b.deploy(b.fresh(), "watch:", lambda: _kill_agent(b)))
    found["network silent at watch"] = ("watch:", _silent)
    return found


def _flipped(b: Bench, name: str) -> Path:
    """The new bundle with one bit of that file changed, hashes and signature as they were."""
    with tarfile.open(b.new) as archive:
        member = archive.getmember(name)
    data = bytearray(b.new.read_bytes())
    data[member.offset_data + member.size // 2] ^= 1
    out = b.folder / "flipped.tar"
    out.write_bytes(data)
    return out


def _with_extra(b: Bench) -> Path:
    """The new bundle with a file more that would be written elsewhere."""
    out = b.folder / "extra.tar"
    out.write_bytes(b.new.read_bytes())
    with tarfile.open(out, "a") as archive:
        entry = tarfile.TarInfo("../../../etc/cron.d/x")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    return out


def _short(b: Bench) -> Path:
    path = b.folder / "short.tar"
    path.write_bytes(b.new.read_bytes()[: b.new.stat().st_size // 2 // 512 * 512])
    return path


def _for(b: Bench, **changes: Any) -> Path:
    manifest = {**json.loads(b.files[agent.MANIFEST]), **changes}
    return b.changed("other-" + next(iter(changes)), **{agent.MANIFEST: json.dumps(manifest).encode()})


def _damaged_model(b: Bench) -> Path:
    name = next(file for file in b.files if file.startswith("model/"))
    data = bytearray(b.files[name])
    data[len(data) // 2] ^= 1
    return b.changed("damaged", **{name: bytes(data)})


def _crashing_model(b: Bench) -> Path:
    """An engine that dies with SIGSEGV, as ai-edge-litert does on a processor that it was not built for."""
    wheel = next(file for file in b.files if "edge_centernet-" in file)
    source, target = io.BytesIO(b.files[wheel]), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename == "edge_centernet/runtimes/tflite.py":
                call = b"        check_input(self.manifest.input, x)\n"
                assert call in data
                data = data.replace(call, call + b"        __import__('ctypes').string_at(0)\n")
            if not entry.filename.endswith("RECORD"):
                new.writestr(entry.filename, data)
        names = "".join(f"{entry.filename},,\n" for entry in old.infolist())
        new.writestr(next(e.filename for e in old.infolist() if e.filename.endswith("RECORD")), names)
    digest = hashlib.sha256(target.getvalue()).hexdigest()
    text = b.files["requirements.txt"].decode()
    text = re.sub(r"(edge-centernet==\S+ --hash=sha256:)\w+", rf"\g<1>{digest}", text)
    return b.changed("crashing", **{wheel: target.getvalue(), "requirements.txt": text.encode()})


def _other_model(b: Bench) -> Path:
    """The old model, which does not find what is expected of the new one."""
    expected = json.loads(b.files["check/expected.json"])
    for item in expected["detections"]:
        item["box"] = [x + 40 for x in item["box"]]
    return b.changed("other", **{"check/expected.json": json.dumps(expected).encode()})


def _filled(b: Bench, at: str) -> Attempt:
    """Something fills the disk, to the last byte."""

    def fill() -> None:
        write = "dd if=/dev/zero of=/opt/filler-$size bs=$size count=2000 2>/dev/null"
        b.board.shell(f"for size in 1M 4k; do {write}; done")

    if not at:
        fill()
    attempt = b.deploy(b.fresh(), at, fill if at else lambda: None)
    b.board.shell("rm -f /opt/filler-*")
    return attempt


def _kill_agent(b: Bench) -> None:
    """SIGKILL to the installer on the board, then what systemd would do when its timer is over, at once."""
    b.board.shell("pkill -9 -f '[d]eploy-agent'; sleep 1; systemctl start edge-centernet-revert.service")


def _silent(b: Bench) -> Attempt:
    """The cable is out: no packet, no word. The board waits half a minute for one, then goes back."""

    def cable(state: str) -> None:
        subprocess.run(["ip", "link", "set", f"vb-{BOARD}", state], check=True)

    try:
        attempt = b.deploy(b.fresh(), "watch:", lambda: cable("down"))
        time.sleep(agent.KEEP_S)
    finally:
        cable("up")
    _wait_reachable()
    return attempt


def _wait_reachable(seconds: float = 60.0) -> None:
    """The board takes its address again some time after its cable is back."""
    config = f"{CACHE}/containers/ssh/config"
    words = ["ssh", "-F", config, "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", BOARD, "true"]
    end = time.monotonic() + seconds
    while subprocess.run(words, capture_output=True, check=False).returncode:
        if time.monotonic() > end:
            raise SystemExit(f"expected {BOARD} to answer {seconds:.0f} s after its cable is back")
        time.sleep(0.5)


def run_case(bench: Bench, name: str, expected: str, case: Case) -> dict[str, Any]:
    """Let it go wrong; what was told, and what runs then."""
    started = time.monotonic()
    attempt = case(bench)
    # An installer that lost its listener ends by itself.
    bench.board.shell("flock -w 120 /opt/edge-centernet/.lock true")
    runs = bench.board.delivering(bench.release)
    told = expected in "\n".join(attempt.lines)
    record = {
        "failure": name,
        "exit_code": attempt.code,
        "told": re.sub(r"/tmp/\S+/", "", attempt.told),
        "told_as_expected": told,
        "old_release_runs": runs,
        "seconds": round(time.monotonic() - started, 1),
    }
    verdict = "ok  " if runs and told and attempt.code else "FAIL"
    print(f"{verdict} {name}: {record['told']} ({record['seconds']} s)", flush=True)
    if not (runs and told):
        journal = bench.board.shell("journalctl -n 60 --no-pager -o short-precise").splitlines()
        print("     ", bench.board.state(), *attempt.lines[-12:], *journal, sep="\n      ", flush=True)
        bench.begin()
    return record


def main() -> int:
    """Exit status 0 if the old release ran after every failure, and a good deploy goes through at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="part of a failure's name")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = {n: c for n, c in cases().items() if not options.only or any(part in n for part in options.only)}
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        bench.begin()
        records = [run_case(bench, name, *case) for name, case in chosen.items()]
        last = bench.deploy(bench.new)
        release = bench.board.state()["current"]
        good = last.code == 0 and release != bench.release and bench.board.delivering(release)
        print(f"{'ok  ' if good else 'FAIL'} after all of them a good deploy: {last.told}")
        bench.board.container("down", BOARD)
    passed = sum(r["old_release_runs"] and r["told_as_expected"] and r["exit_code"] != 0 for r in records)
    print(f"{passed} of {len(records)} failures left the old release running")
    if options.json:
        options.json.write_text(json.dumps({"failures": records, "deploy_afterwards": good}, indent=1) + "\n")
    return 0 if good and passed == len(records) else 1


if __name__ == "__main__":
    sys.exit(main())
