#!/usr/bin/env python3
"""The stages of scripts/test_devices.sh: each proves one part of the way onto a board, on emulated boards.

Each leaves a file in CACHE/stages when it is through, so that a run that was cut off goes on where it was.
What was seen is written to build/devices: without paths of this computer, with the commit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boot import CACHE, KEY, USER, Board, BoardError, public_key

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RECORDS = REPOSITORY / "build/devices"
RUN = CACHE / "run"
CARD = RUN / "card.img"
STAGES = CACHE / "stages"
PHOTO = REPOSITORY / "edge_centernet/assets/sample.jpg"
MODELS = REPOSITORY / "edge_centernet/model_zoo"
CLI = [str(Path(sys.executable).with_name("edge-centernet"))]  # not `-m`, which would find the checkout first
UNIT = "edge-centernet@camera.service"
PYTHON_THERE = "/opt/edge-centernet/current/venv/bin/python"
AGENT = "sudo python3 -I /opt/edge-centernet/agent.py"
WATCH_S = 150  # an emulated processor needs 3 to 8 s a frame, and 30 s to the first
DATA_SET = "centernet-mbv2-320"

# The first camera's settings on these boards: what is shipped, but each frame's detections are told.
CONFIG = """\
camera = 0
wait = true
fourcc = "YUYV"     # OpenCV 5.0 hands over pixels in BGR, which vivid offers first, as a line of bytes
format = "jsonl"
"""


class StageError(Exception):
    """What was expected, what came."""


def expect(condition: object, text: str) -> None:
    """Raise StageError with this text unless the condition holds."""
    if not condition:
        raise StageError(text)


def run(*command: str | Path, cwd: Path = REPOSITORY) -> str:
    """Run and return its standard output; StageError with the end of that where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StageError(f"`{' '.join(words)}` ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def record(name: str, content: dict[str, Any]) -> None:
    """Keep what was seen, with the commit that it was seen with."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    commit = run("git", "rev-parse", "--short=12", "HEAD").strip()
    (RECORDS / f"{name}.json").write_text(json.dumps({"commit": commit, **content}, indent=1) + "\n")


def keep_text(name: str, text: str) -> None:
    """Keep a log: no colours, no cursor movements, no trailing blanks."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\r\x00\x0f]", "", text)
    (RECORDS / name).write_text("\n".join(line.rstrip() for line in plain.splitlines()).strip() + "\n")


# Building


def rootfs() -> None:
    """Root file systems of Debian 12 for amd64, arm64 and armhf."""
    subprocess.run([HERE / "rootfs.sh", "amd64", "arm64", "armhf"], check=True)


def base() -> None:
    """The base image for ARM boards."""
    if not (CACHE / "base-arm64.img").exists():
        subprocess.run([HERE / "build_base.sh", "arm64"], check=True)


def bundle_of(folder: str, *options: str) -> Path:
    """The bundle with these options, made anew in RUN/FOLDER."""
    target = RUN / folder
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    run(*CLI, "bundle", "--key", RUN / "key", "--config", RUN / "camera.toml", "--out", target, *options)
    return the_bundle(folder)


def the_bundle(folder: str) -> Path:
    """The bundle in RUN/FOLDER."""
    return the_one(folder, "*.tar", "bundle")


def the_one(folder: str, pattern: str, stage: str) -> Path:
    """The one such file in RUN/FOLDER, made by that stage."""
    found, place = list((RUN / folder).glob(pattern)), RUN / folder
    expect(len(found) == 1, f"expected one {pattern} in {place}, found {len(found)}; run the stage {stage}")
    return found[0]


def bundle() -> None:
    """Three releases for a Pi 4: the first, an update with another model, one with another engine."""
    RUN.mkdir(parents=True, exist_ok=True)
    if not (RUN / "key").exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "signer", "-f", RUN / "key")
    (RUN / "camera.toml").write_text(CONFIG)
    bundle_of("first", "--target", "pi4")
    bundle_of("update", "--target", "pi4", "--model", "centernet-nano-256")
    bundle_of("engine", "--target", "pi4", "--engine", "tflite-runtime")


def image() -> None:
    """A flashable image with the first release inside."""
    shutil.rmtree(RUN / "image", ignore_errors=True)
    made = the_bundle("first")
    public_key()
    run(
        *CLI, "image", "--target", "pi4", "--base", CACHE / "base-arm64.img", "--bundle", made,
        "--signers", made.with_name("signers"), "--user", USER, "--ssh-key", KEY.with_suffix(".pub"),
        "--hostname", "edge-virt", "--out", RUN / "image",
    )  # fmt: skip
    the_one("image", "*.img.xz", "image")


def flash() -> None:
    """Flash it to a file of 4 GiB, the size of a card; then read it back once more."""
    for name in ("virt", "raspi3b"):
        Board(name).down()  # their disks are layers on top of this file
    with CARD.open("wb") as file:
        file.truncate(4 << 30)
    image = the_one("image", "*.img.xz", "image")
    run(*CLI, "flash", image, CARD, "--force")
    run(*CLI, "flash", image, CARD, "--verify-only")


# The board in QEMU


VIRT = Board("virt")
VIRT_BOARD = "qemu-system-aarch64 -M virt -cpu cortex-a72 -smp 2, emulated"


def boot_virt() -> None:
    """Power on: from the card to a login and the running service."""
    VIRT.down()
    began = time.monotonic()
    VIRT.up(CARD)
    VIRT.wait_ssh()
    login = time.monotonic() - began
    running(VIRT)
    seen = {
        "board": VIRT_BOARD,
        "qemu": run("qemu-system-aarch64", "--version").split("\n")[0],
        "login_s": round(login, 1),
        "service_s": round(time.monotonic() - began, 1),
        "os": VIRT.ssh(". /etc/os-release && echo $PRETTY_NAME").stdout.strip(),
        "linux": VIRT.ssh("uname -srm").stdout.strip(),
        "failed_units": VIRT.ssh("systemctl --failed --no-legend --plain | cut -d' ' -f1").stdout.split(),
        "status": status(VIRT)["current"],
    }
    record("boot-virt", seen)


def running(board: Board, timeout_s: float = 900.0) -> None:
    """Wait until the camera's service runs."""
    until = time.monotonic() + timeout_s
    while board.ssh(f"systemctl is-active {UNIT}", check=False, quiet=True).stdout.strip() != "active":
        if time.monotonic() > until:
            tail = journal(board, UNIT)[-2000:]
            raise StageError(f"expected {UNIT} to run within {timeout_s:.0f} s\n{tail}")
        time.sleep(3.0)


def status(board: Board) -> dict[str, Any]:
    """What the installer on the board says is there."""
    answer: dict[str, Any] = json.loads(board.ssh(f"{AGENT} status").stdout)
    return answer


def journal(board: Board, unit: str, since: str = "") -> str:
    """A unit's journal of this boot, without host name and time."""
    when = f"--since '{since}'" if since else "-b"
    return board.ssh(f"sudo journalctl {when} -u {unit} -o cat --no-pager").stdout


# char-video4linux means nothing to systemd while no camera's driver is loaded; its number, 81, always does.
ALLOW_LATE_CAMERAS = (
    "grep -q char-81 /etc/systemd/system/edge-centernet@.service || "
    "printf '[Service]\\nDeviceAllow=char-81 rw\\n' | "
    "sudo tee /etc/systemd/system/edge-centernet@.service.d/late-cameras.conf >/dev/null; "
)


def attach_camera(board: Board) -> None:
    """Put a virtual camera that shows the photo into a board; the service's records go to the journal.

    The camera's module is loaded after the service started, as when a USB camera is plugged in later.
    """
    raw, vivid = RUN / "vivid-photo.raw", HERE / "vivid"
    run(sys.executable, HERE / "photo_frame.py", PHOTO, raw)
    board.copy(raw, vivid / "vivid-photo", vivid / "vivid-photo.service", to="/tmp/")
    board.ssh(
        "cd /tmp && sudo install -D -m 644 vivid-photo.raw /usr/local/share/vivid-photo.raw && "
        "sudo install -m 755 vivid-photo /usr/local/sbin/ && "
        "sudo install -m 644 vivid-photo.service /etc/systemd/system/ && "
        "sudo mkdir -p /etc/systemd/system/edge-centernet@.service.d && "
        "printf '[Service]\\nStandardOutput=journal\\n' | "
        "sudo tee /etc/systemd/system/edge-centernet@.service.d/journal.conf >/dev/null && "
        f"{ALLOW_LATE_CAMERAS}sudo systemctl daemon-reload && sudo systemctl restart {UNIT} && "
        "sudo systemctl enable -q --now vivid-photo && sync"
    )


def detected(board: Board, since: str = "", frames: int = 3) -> list[dict[str, Any]]:
    """Wait ten minutes at most for records of frames in the journal; the last of them."""
    until = time.monotonic() + 600
    while True:
        lines = [line for line in journal(board, UNIT, since).splitlines() if line.startswith("{")]
        if len(lines) >= frames:
            return [json.loads(line) for line in lines[-frames:]]
        expect(time.monotonic() < until, f"expected {frames} frames in {UNIT}'s journal, got {len(lines)}")
        time.sleep(3.0)


def detect() -> None:
    """`detect --camera 0` runs as the service; the person and the cat of the photo are in its journal."""
    attach_camera(VIRT)
    frames = detected(VIRT, frames=5)
    for found in map(classes, frames):
        expect(found == ["cat", "person"], f"expected a cat and a person in the picture, found {found}")
    shown = journal(VIRT, f"{UNIT} -u vivid-photo -u edge-centernet-setup")
    keep_text("virt-journal.log", "\n".join(shown.splitlines()[:60]))
    keep_text("virt-serial.log", VIRT.console())
    camera = VIRT.ssh("v4l2-ctl -d /dev/video0 --info | sed -n 's/.*Card type *: //p'").stdout.strip()
    rated = VIRT.ssh(f"systemd-analyze security {UNIT} --no-pager | tail -n 1").stdout.strip(" →\n")
    record("detect-virt", {"board": VIRT_BOARD, "camera": camera, "security": rated, "frames": frames})


def classes(frame: dict[str, Any]) -> list[str]:
    """The names of what was found in a frame."""
    return sorted(item["class"] for item in frame["detections"])


def same_detections() -> None:
    """The same INT8 TFLite file and photo, here and on the board: each step's bits and the detections."""
    model = MODELS / f"{DATA_SET}.tflite"
    here = json.loads(run(sys.executable, HERE / "probe.py", model, PHOTO))
    VIRT.copy(HERE / "probe.py", model, PHOTO, to="/tmp/")
    VIRT.ssh(f"sudo systemctl stop {UNIT} vivid-photo")
    command = f"cd /tmp && {PYTHON_THERE} probe.py {model.name} {PHOTO.name} 2>/dev/null"
    there = json.loads(VIRT.ssh(command).stdout)
    VIRT.ssh(f"sudo systemctl start vivid-photo {UNIT}")
    same = here["detections"] == there["detections"]
    seen = {
        "same_bits": {step: here["steps"][step] == there["steps"][step] for step in here["steps"]},
        "detections_equal": same,
        "here": here,
        "board": there,
    }
    record("same-detections", seen)
    verdicts = {here["self_test"], there["self_test"]}
    expect(verdicts == {"passed"}, f"self-test: {verdicts}")
    expect(here["model_sha256"] == there["model_sha256"], "expected the same model file")
    expect(same, "expected the same detections; see same-detections.json")


# Updates


def to_board(*what: str) -> list[str]:
    """`edge-centernet deploy` to the board."""
    options = ["--ssh", f"-F {VIRT.folder / 'ssh_config'}", "--key", str(RUN / "key")]
    return [*CLI, "deploy", VIRT.name, *options, "--watch", str(WATCH_S), *what]


def deploy() -> None:
    """Update the running board over ssh to a release with another model; it detects with that."""
    detected(VIRT)
    before = status(VIRT)["current"]
    began, since = time.monotonic(), now()
    run(*to_board("--bundle", str(the_bundle("update"))))
    seconds = time.monotonic() - began
    after, frame = status(VIRT), detected(VIRT, since)[-1]
    new = after["current"] != before and after["previous"] == before
    expect(new, f"expected a new release after {before}: {after}")
    expect("person" in classes(frame), f"expected a person in the picture, found {classes(frame)}")
    seen = {"from": before, "to": after["current"], "seconds": round(seconds), "last_frame": frame}
    record("deploy-virt", seen)


def now() -> str:
    """The board's clock, for `journalctl --since`."""
    return VIRT.ssh("date '+%F %T'").stdout.strip()


def rollback() -> None:
    """Take the release before back; and forth, so that the stages can be repeated."""
    before, since = status(VIRT), now()
    run(*to_board("--rollback"))
    after, frame = status(VIRT), detected(VIRT, since)[-1]
    expect(after["current"] == before["previous"], f"expected {before['previous']}, found {after['current']}")
    record("rollback-virt", {"from": before["current"], "to": after["current"], "last_frame": frame})


KERNEL_ON_EXT4 = "sudo dmesg | grep -i 'ext4.*\\(recover\\|error\\|mounted\\)' | cut -d] -f2-"
# Where the plug is pulled: at the word of the installer on the board, or while the bundle is on its way.
CUTS = ("upload", "unpack", "packages", "check", "switch", "watch")


def power_cut() -> None:
    """Pull the plug in each step of an update and switch on again: the old release runs and detects."""
    seen = []
    for step in CUTS:
        before = status(VIRT)["current"]
        VIRT.ssh("sudo rm -rf /opt/edge-centernet/incoming/*; sync" if step == "upload" else "true")
        told = cut_during(step)
        began = time.monotonic()
        VIRT.up(None)
        VIRT.wait_ssh()
        running(VIRT)
        frame = detected(VIRT, frames=1)[-1]
        after = status(VIRT)
        problem = after["current"] != before or after["pending"] or not frame["detections"]
        about = {
            "cut_in": step,
            "told_before": told,
            "release_before": before,
            "release_after": after["current"],
        }
        about |= {"pending": after["pending"], "detecting_s_after_power_on": round(time.monotonic() - began)}
        about["recovery"] = journal(VIRT, "edge-centernet-recover").strip().splitlines()[-1:]
        about["file_system"] = VIRT.ssh(KERNEL_ON_EXT4).stdout.strip().splitlines()
        seen.append({**about, "last_frame": frame})
        record("power-cuts-virt", {"board": "qemu-system-aarch64 -M virt, SIGKILL of QEMU", "cuts": seen})
        expect(not problem, f"cut in {step}: expected {before} to run, found {after}")
        print(f"  cut in {step}: {after['current']} runs", flush=True)


def cut_during(step: str) -> list[str]:
    """Begin an update, pull the plug in the step; what was told until then.

    The early steps bring packages that the board has not; the release of the late ones passes the check.
    """
    folder = "engine" if step in ("upload", "unpack", "packages") else "first"
    told: list[str] = []
    command = to_board("--bundle", str(the_bundle(folder)))
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        if step == "upload":
            wait_for_part()
        else:
            for line in process.stderr:
                told.append(line.strip())
                if line.startswith(f"{step}:"):
                    break
            time.sleep(4.0)  # into the step
        ended = process.poll() is not None
        VIRT.cut()
        # The connection's end is noticed by its keep-alive, 15 s later.
        told += [line.strip() for line in process.stderr]
    expect(not ended and process.returncode, f"expected the update to be cut off in {step}, it said {told}")
    return [line.replace(str(RUN), "") for line in told]


def wait_for_part() -> None:
    """Until some of the bundle has arrived."""
    until = time.monotonic() + 300
    command = "sudo sh -c 'cat /opt/edge-centernet/incoming/*.part | wc -c'"
    while time.monotonic() < until:
        size = VIRT.ssh(command, check=False, quiet=True).stdout.strip()
        if size.isdigit() and int(size) > 5_000_000:
            return
    raise StageError("expected a part of the bundle on the board within 300 s")


# Other machines


def raspi3b() -> None:
    """The same card in an emulated Raspberry Pi 3: its SD controller, its device tree, its serial port.

    Told by its serial port alone: the network of QEMU's Pi hangs on USB, where transfers failed.
    """
    board = Board("raspi3b")
    board.down()
    board.up(CARD, "raspi3b")
    details: dict[str, Any] = {}
    try:
        board.wait_text(r"edge-virt login:", 1200)
        board.wait_text(r"done: \S+ is current", 2400)
        shown = board.console()
        seen = re.findall(r"\[ *([0-9.]+)\] python3\[\d+\]: (\w+: .*)", shown)
        model = re.search(r"Machine model: (.*)", shown)
        installer = [{"seconds_after_power_on": float(at), "told": text.strip()} for at, text in seen]
        details = {"model": model[1].strip() if model else "", "installer": installer}
    finally:
        keep_text("raspi3b-serial.log", board.console())
        record("boot-raspi3b", {"board": "qemu-system-aarch64 -M raspi3b, emulated", **details})
    expect("Raspberry Pi 3" in details["model"], f"expected a Raspberry Pi 3, found {details['model']!r}")
    board.down()


def chroot_install(architecture: str) -> None:
    """Installer, self-test and doctor under qemu-user, without a network."""
    environment = os.environ | {"PYTHON": sys.executable}
    subprocess.run([HERE / "chroot_install.sh", architecture], check=True, env=environment)


def chroot_arm64() -> None:
    """The installer, the check and the doctor in a 64-bit ARM root file system under qemu-user."""
    chroot_install("arm64")


def chroot_armhf() -> None:
    """The same on 32-bit ARM, with Debian's NumPy and OpenCV."""
    chroot_install("armhf")


def deploy_failures() -> None:
    """More than thirty ways to break an update, on a machine with a real systemd."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    run(sys.executable, HERE / "deploy_failures.py", "--json", RECORDS / "deploy-failures.json")


FLEET = ("fleet1", "fleet2", "fleet3")


def container(*words: str) -> str:
    """scripts/devices/container.sh."""
    return run(HERE / "container.sh", *words)


def ansible() -> None:
    """A roll-out to three machines with a real systemd, which stops at the one whose disk is full."""
    x86 = ("--target", "x86", "--engine", "ai-edge-litert")
    first, update = bundle_of("fleet-1", *x86), bundle_of("fleet-2", *x86, "--model", "centernet-nano-256")
    for name in FLEET:
        container("down", name)
    addresses = {name: container("up", name, "--disk", "1200M").split()[-1] for name in FLEET}
    login = f"ansible_ssh_common_args='-F {CACHE / 'containers/ssh/config'}'"
    common = f"[all:vars]\nansible_user={USER}\n{login}\nansible_python_interpreter=/usr/bin/python3\n"
    (RUN / "hosts").write_text("\n".join([*FLEET, "", common]))
    roll_out = [*CLI, "deploy", "--inventory", str(RUN / "hosts"), "--key", str(RUN / "key"), "--watch", "5"]
    run(*roll_out, "--bundle", first)
    before = {name: fleet_release(name) for name in FLEET}
    one = len(set(before.values())) == 1 and None not in before.values()
    expect(one, f"expected one release on all, found {before}")
    container("exec", "fleet2", "sh", "-c", "dd if=/dev/zero of=/opt/full bs=1M 2>/dev/null; true")
    words = [*roll_out, "--bundle", str(update), "--batches", "1"]
    refused = subprocess.run(words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    after = {name: fleet_release(name) for name in FLEET}
    lines = map(str.strip, refused.stderr.splitlines())
    why = [line for line in lines if "disk" in line.lower() or "No space" in line]
    services = {name: container("exec", name, "systemctl", "is-active", UNIT).strip() for name in FLEET}
    container("exec", "fleet2", "rm", "/opt/full")
    run(*roll_out, "--bundle", update)
    last = {name: fleet_release(name) for name in FLEET}
    code = refused.returncode
    seen = {
        "machines": f"{len(addresses)} containers with systemd and sshd, addresses of their own on a bridge",
        "roll_out": before,
        "disk_of_fleet2_full": {"exit": code, "releases": after, "services": services, "told": why[:3]},
        "after_room_was_made": last,
    }
    record("ansible", seen)
    expect(code == 2, f"expected exit code 2 for the roll-out that was refused, got {code}")
    expect(after["fleet1"] != before["fleet1"], "expected the new release on fleet1")
    others = all(after[name] == before[name] for name in FLEET[1:])
    expect(others, f"expected the old release on the others: {after}")
    expect(set(services.values()) == {"active"}, f"expected all services to run, found {services}")
    everywhere = set(last.values()) == {after["fleet1"]}
    expect(everywhere, f"expected the new release on all in the end, found {last}")
    for name in FLEET:
        container("down", name)


def fleet_release(name: str) -> Any:
    """What runs on a container; None for nothing."""
    told = container("exec", name, "python3", "-I", "/opt/edge-centernet/agent.py", "status")
    return json.loads(told)["current"]


ORDER = (
    *(rootfs, base, bundle, image, flash, boot_virt, detect, same_detections, deploy, power_cut, rollback),
    *(raspi3b, chroot_arm64, chroot_armhf, deploy_failures, ansible),
)
STAGE: dict[str, Callable[[], None]] = {stage.__name__.replace("_", "-"): stage for stage in ORDER}


def purpose(name: str) -> str:
    """What a stage proves, in a line."""
    return (STAGE[name].__doc__ or "").splitlines()[0]


def main() -> int:
    """Exit code 0, or 1 with the stage that failed."""
    parser = argparse.ArgumentParser(prog="test_devices.sh", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[*STAGE, []], metavar="STAGE", help=", ".join(STAGE))
    parser.add_argument("--all", action="store_true", help="every stage that is not done")
    again = "it and all after it, again"
    parser.add_argument("--from", dest="first", choices=list(STAGE), metavar="STAGE", help=again)
    parser.add_argument("--list", action="store_true", help="the stages, and when they were done")
    options = parser.parse_args()
    STAGES.mkdir(parents=True, exist_ok=True)
    names = list(STAGE)
    for name in names[names.index(options.first) :] if options.first else ():
        (STAGES / name).unlink(missing_ok=True)
    if options.list or not (options.stages or options.all or options.first):
        for name in names:
            print(f"{'done' if (STAGES / name).exists() else '    '}  {name:16} {purpose(name)}")
        return 0
    if os.getuid():
        print("test_devices.sh: expected to run as root; use sudo", file=sys.stderr)
        return 2
    chosen = options.stages or [name for name in names if not (STAGES / name).exists()]
    for name in chosen:
        print(f"== {name}: {purpose(name)}", flush=True)
        began = time.monotonic()
        (STAGES / name).unlink(missing_ok=True)  # done before says nothing about now
        try:
            STAGE[name]()
        except (StageError, BoardError, subprocess.CalledProcessError) as error:
            print(f"test_devices.sh: {name}: {error}", file=sys.stderr)
            return 1
        (STAGES / name).write_text(f"{time.monotonic() - began:.0f}\n")
        print(f"== {name}: done in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
