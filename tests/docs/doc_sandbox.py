"""Folders in which documented blocks run: what the documentation names is there, made of the sample photos.

A page has one folder for all its blocks, as its reader has. It looks like a clone of this repository; a file that a
block names and that no block before made is made here (MAKERS), all small and all real.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from doc_pages import ROOT, Block
from doc_stand_ins import PLAIN, STAND_INS
from numpy.typing import NDArray

import edge_centernet
from edge_centernet.models import find_model

CLONED = (
    "scripts", "edge_centernet", "converters", "calibration", "runtimes", "tests/c", "docs", "setup.cfg", "setup.py",
    "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", ".gitignore",
    ".pre-commit-config.yaml",
)  # fmt: skip
SSHD = "/usr/sbin/sshd"
ASSETS = Path(edge_centernet.__file__).parent / "assets"
CARDS = ["nine", "ten", "jack", "queen", "king", "ace"]
BROKER_PASSWORD = "for the test of the documentation"
# The installed package, not the clone that one stands in.
MAIN = "import sys; del sys.path[0]; from edge_centernet.cli import main; main()"
_SHIM = Path(__file__).with_name("doc_shim.py")


class Services:
    """What runs beside the blocks, started when first asked for: camera, broker, sshd."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """folder: for their files. stack: ends them."""
        self.folder, self._stack = folder, stack
        self.home = folder / "home"  # one for all pages: a reader has one, with one key
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / ".cache/edge-centernet").mkdir(parents=True)
        wheels = Path("~/.cache/edge-centernet/wheels").expanduser()
        wheels.mkdir(parents=True, exist_ok=True)
        (self.home / ".cache/edge-centernet/wheels").symlink_to(wheels)

    @functools.cached_property
    def bundle(self) -> Path:
        """A bundle for this machine, signed with the reader's key; `signers` lies beside it."""
        return self._make_bundle(".".join(map(str, sys.version_info[:2])))

    def wheels(self, python: str) -> Path:
        """A folder with the wheels of a bundle for x86_64 with that Python, ours among them."""
        folder = self.folder / f"wheels-{python}"
        with tarfile.open(self._make_bundle(python)) as archive:
            for member in archive.getmembers():
                if member.name.startswith("wheels/"):
                    archive.extract(member, folder, filter="data")
        return folder / "wheels"

    def _make_bundle(self, python: str) -> Path:
        folder = self.folder / f"bundle-{python}"
        if not folder.exists():
            words = (
                "bundle",
                "--target",
                "x86",
                "--python",
                python,
                "--engine",
                "ai-edge-litert",
                "--no-c",
                "--out",
                str(folder),
            )
            environment = {**os.environ, "HOME": str(self.home)}
            done = subprocess.run([sys.executable, "-c", MAIN, *words], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        (path,) = folder.glob("*.tar")
        return path

    @functools.cached_property
    def camera(self) -> str:
        """URL of a camera that shows a person who walks to and fro."""
        from servers import mjpeg_server

        return self._stack.enter_context(mjpeg_server(path="/walk")).url

    @functools.cached_property
    def broker_port(self) -> int:
        """Of a mosquitto that lets in anna with BROKER_PASSWORD, and nobody else."""
        from broker import Mosquitto

        folder = self.folder / "mosquitto"
        folder.mkdir()
        words = ["mosquitto_passwd", "-c", "-b", folder / "passwords", "anna", BROKER_PASSWORD]
        subprocess.run(words, check=True, capture_output=True)
        broker = Mosquitto(folder, "allow_anonymous false", f"password_file {folder / 'passwords'}")
        broker.start()
        self._stack.callback(broker.kill)
        return broker.port

    @functools.cached_property
    def ssh_config(self) -> Path:
        """For ssh: raspberrypi.local is this machine."""
        from sshd import sshd

        folder = self.folder / "sshd"
        folder.mkdir()
        options = self._stack.enter_context(sshd(folder)).split()
        port, key, known = options[options.index("-p") + 1], options[options.index("-i") + 1], folder / "known_hosts"
        config = folder / "ssh_config"
        config.write_text(
            f"Host raspberrypi.local\n  HostName 127.0.0.1\n  HostKeyAlias [127.0.0.1]:{port}\n  Port {port}\n"
            f"  IdentityFile {key}\n  UserKnownHostsFile {known}\n  IdentitiesOnly yes\n  BatchMode yes\n"
        )
        return config


class Sandbox:
    """The folder of one page."""

    def __init__(self, folder: Path, template: Path, services: Services) -> None:
        """template: a clone to copy."""
        self.folder, self.home, self.log = folder / "clone", services.home, folder / "log.jsonl"
        self._setup, self.services = folder / "setup.json", services
        self._bin, self._tools = folder / "bin", folder / "tools"
        self.board = folder / "board"
        shutil.copytree(template, self.folder, symlinks=True)
        self._write_programs()

    def run(self, block: Block) -> subprocess.CompletedProcess[str]:
        """The block by `sh -eu`, in the page's folder; both output streams together in stdout."""
        instead = [
            value
            for rule in STAND_INS
            if rule.program in block.text
            for pattern, value in rule.replace.items()
            if re.search(pattern, block.text)
        ]
        self.furnish("\n".join([block.text, *instead]))
        self._configure(block.text)
        environment = {
            "HOME": str(self.home), "PATH": str(self._bin), "DOC_COMMANDS": str(self._setup), "DOC_BIN": str(self._bin),
            "LANG": "C.UTF-8", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1",
            **{name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY", "https_proxy",
               "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CONFIG_FILE") if name in os.environ},
        }  # fmt: skip
        return subprocess.run(
            ["/bin/sh", "-eu", "-c", block.script], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=500,
        )  # fmt: skip

    def calls(self) -> list[dict[str, Any]]:
        """What the programs were called with since the folder was made, as doc_shim.py wrote it."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def _write_programs(self) -> None:
        """A shim for every program that has stand-ins, and for ours; links to plain ones; nothing else is found."""
        self._bin.mkdir()
        self._tools.mkdir()
        for name in PLAIN:
            if found := shutil.which(name):
                _write_program(self._bin / name, f'export PATH={shlex.quote(os.environ["PATH"])}; exec {found} "$@"')
        names = {rule.program for rule in STAND_INS} | {"edge-centernet", "python", "python3", "pip", "sudo"}
        for name in names:
            if name.startswith("scripts/"):
                _write_shim(self.folder / name, name)
            elif not name.startswith("/"):
                _write_shim(self._bin / name, name)
        environment = self.folder / ".venv"  # "installed": the environment that is tested
        for name in ("edge-centernet", "python", "python3", "pip"):
            _write_shim(environment / "bin" / name, name)
        (environment / "bin/activate").write_text(f'export VIRTUAL_ENV={environment} PATH="{environment}/bin:$PATH"\n')

    def _configure(self, text: str) -> None:
        """What the shims read. Services are started only if the block can need them."""
        from servers import free_port

        uses_broker = "broker.lan" in text
        facts = {
            "camera": self.services.camera if "--camera" in text else "",
            "broker_port": str(self.services.broker_port) if uses_broker else "",
            "broker_password": BROKER_PASSWORD, "port": str(free_port()), "user": getpass.getuser(),
            "board": str(self.board), "board_by_hand": str(self.board) + "-by-hand", "root": str(ROOT),
            "bundle": str(self.services.bundle) if "--bundle dist/" in text else "",
            "model": str(find_model("centernet-nano-256", ".tflite")),
            "cards": str(self._made("cards_source")) if "get_cards" in text else "",
        }  # fmt: skip
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])
        if "deploy" in text and Path(SSHD).exists() and os.geteuid() == 0:
            real = shutil.which("ssh", path=path)
            _write_program(self._tools / "ssh", f'exec {real} -F {self.services.ssh_config} "$@"')
            path = f"{self._tools}{os.pathsep}{path}"
        python = [sys.executable]
        real_programs: dict[str, list[str]] = {
            "edge-centernet": [*python, "-c", MAIN],
            "python": python, "python3": python, "pip": [*python, "-m", "pip"], "pytest": [*python, "-m", "pytest"],
            "torchrun": [*python, "-m", "torch.distributed.run"],
        }  # fmt: skip
        for rule in STAND_INS:
            if rule.program.startswith("scripts/"):
                real_programs[rule.program] = [str(self.folder / f"{rule.program}.real")]
            elif rule.program not in real_programs and (found := shutil.which(rule.program, path=path)):
                real_programs[rule.program] = [found]
        setup = {
            "stand_ins": [_filled(asdict(rule), facts) for rule in STAND_INS], "real": real_programs, "path": path,
            "log": str(self.log), "port": int(facts["port"]),
        }  # fmt: skip
        self._setup.write_text(json.dumps(setup))

    def furnish(self, text: str) -> None:
        """Make the files that the block names and that are not there."""
        for pattern, maker in MAKERS.items():
            for name in sorted(set(re.findall(pattern, text))):
                target = self.home / name[2:] if name.startswith("~/") else self.folder / name.rstrip("/")
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    maker(self, target)

        if re.search(r"pre-commit|scripts/release\.py", text):
            self._commit()

    def _commit(self) -> None:
        """All that is there, into a repository of git: what some commands work on."""
        git = ["git", "-c", "user.name=reader", "-c", "user.email=reader@localhost", "-c", "core.hooksPath=/dev/null"]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", "As it is"]):
            subprocess.run([*git, *words], cwd=self.folder, check=True, capture_output=True)

    def _made(self, name: str) -> Path:
        target = self.services.folder / name
        if not target.exists():
            _cards_source(self, target)
        return target


def _write_shim(path: Path, name: str) -> None:
    """A program that is doc_shim.py under that name; what was there stays beside it as NAME.real."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(f"{path}.real")
    _write_program(path, f'exec {sys.executable} -S -E {_SHIM} {name} "$@"')


def _write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _filled(value: Any, facts: dict[str, str]) -> Any:
    """Strings with {NAMES} filled in, at any depth."""
    if isinstance(value, dict):
        return {key: one if key in ("when", "why") else _filled(one, facts) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(one, facts) for one in value]
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: facts.get(match[1], match[0]), value)
    return value


def clone(folder: Path) -> Path:
    """A copy of the repository as `git clone` gives it, but for the history and most tests."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "_build", "site")
    for name in CLONED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():  # a source distribution has no .gitignore
            continue
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, target)
    return folder


# -- what the documentation names


_BOXES = (("person", (18, 14, 350, 498)), ("cat", (520, 0, 590, 512)))  # left, top, width, height in the sample photo
_WINDOWS = {"train": (0, 1126), "val": (0, 470), "val 2": (490, 1126)}  # columns; no part has a picture of the other


def _photos(count: int, part: str = "train") -> Iterator[tuple[NDArray[np.uint8], list[tuple[str, list[float]]]]]:
    """(picture, [(class, [left, top, width, height])]): of the sample photo, mirrored, smaller, darker by turns.

    train: the whole photo; val: the person alone and the cat alone.
    """
    photo = cv2.imread(str(ASSETS / "sample.jpg"))  # (512, 1126, 3)
    for number in range(count):
        first, end = _WINDOWS["val 2" if part == "val" and number % 2 else part]
        scale, mirrored = 0.3 + 0.05 * (number % 5), number % 2 == 1
        picture = cv2.resize(photo[:, first:end], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        picture = cv2.convertScaleAbs(picture, alpha=1.0 - 0.04 * number)
        found = []
        for name, (x, y, w, h) in _BOXES:
            if first <= x < end:
                left = end - x - w if mirrored else x - first
                found.append((name, [round(scale * value, 1) for value in (max(left, 0), y, w, h)]))
        yield picture[:, ::-1].astype(np.uint8) if mirrored else picture.astype(np.uint8), found


def _write_set(annotations: Path, images: Path, count: int, classes: list[str]) -> None:
    """COCO JSON and its pictures. Without a person among the classes, the first two stand for person and cat."""
    images.mkdir(parents=True, exist_ok=True)
    ids = {"person": classes.index("person"), "cat": classes.index("cat")} if "person" in classes else {}
    data: dict[str, list[Any]] = {"images": [], "annotations": []}
    data["categories"] = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    for number, (picture, found) in enumerate(_photos(count, "val" if "val" in annotations.name else "train"), 1):
        name = f"IMG_{2383 + number}.jpg"
        cv2.imwrite(str(images / name), picture)
        height, width = picture.shape[:2]
        data["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for what, box in found:
            category = 1 + ids.get(what, {"person": 0, "cat": 1}[what])
            data["annotations"].append({
                "id": len(data["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box,
                "area": box[2] * box[3], "iscrowd": 0,
            })  # fmt: skip
    annotations.write_text(json.dumps(data))


def _classes() -> list[str]:
    """The shipped models' classes: every data set here is one that they may be compared on."""
    from edge_centernet.artifact import read_manifest

    return list(read_manifest(find_model("centernet-nano-256", ".tflite")).model.classes)


def _dataset(_: Sandbox, target: Path) -> None:
    part = "val" if "val" in target.name else "train"
    folder = target.parent / part if "_" in target.name else target.parent / "images"
    _write_set(target, folder, 2 if part == "val" else 4, CARDS if "cards" in target.parent.name else _classes())


def _cards_source(_: Sandbox, target: Path) -> None:
    """Both parts, as the copy that scripts/get_cards.py takes."""
    target.mkdir(parents=True)
    for part in ("train", "val"):
        _write_set(target / f"instances_{part}.json", target / part, 4, CARDS)


def _photo(_: Sandbox, target: Path) -> None:
    shutil.copy(ASSETS / "sample.jpg", target)


def _photo_folder(_: Sandbox, target: Path) -> None:
    target.mkdir()
    for number, (picture, _boxes) in enumerate(_photos(6)):
        cv2.imwrite(str(target / f"{number}.jpg"), picture)


def _film(_: Sandbox, target: Path) -> None:
    """Two seconds of a person who walks."""
    from servers import walk

    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (640, 360))
    for number in range(20):
        writer.write(walk(1.0 + number / 10))
    writer.release()


def _float_model(_: Sandbox, target: Path) -> None:
    shutil.copy(find_model("centernet-nano-256", ".safetensors"), target)


def _model_file(_: Sandbox, target: Path) -> None:
    """The nano model in that form; with OpenVINO's, for where a stand-in takes it instead."""
    for suffix in (target.suffix, ".xml", ".bin"):
        shutil.copy(find_model("centernet-nano-256", suffix), target.with_suffix(suffix))


def _original_centernet(_: Sandbox, target: Path) -> None:
    """Of two classes, with weights that find squares (tests/model)."""
    import torch
    from reference_ctdet import Ctdet

    torch.manual_seed(0)
    torch.save({"epoch": 140, "state_dict": Ctdet(2).state_dict()}, target)


def _torchvision(_: Sandbox, target: Path) -> None:
    """Untrained, in torchvision's form."""
    import torch
    from test_torchvision import TorchvisionMobileNetV2, TorchvisionResNet18

    torch.manual_seed(0)
    model = TorchvisionResNet18() if "resnet" in target.name else TorchvisionMobileNetV2()
    torch.save(model.state_dict(), target)


def _backbone(_: Sandbox, target: Path) -> None:
    """Untrained, under the names of torchvision, of the width that its name says."""
    import torch
    from safetensors.torch import save_file

    from edge_centernet.model.backbones import MobileNetV2

    torch.manual_seed(0)
    width = 0.5 if "_0.5_" in target.name else 1.0
    save_file({k: v.contiguous() for k, v in MobileNetV2(width=width).state_dict().items()}, target)


def _bundle(sandbox: Sandbox, target: Path) -> None:
    """For this machine, under the name of a board's: the board is this machine."""
    made = sandbox.services.bundle
    shutil.copy(made, target)
    for signers in (target.parent / "signers", sandbox.folder / "signers"):
        if not signers.exists():
            shutil.copy(made.parent / "signers", signers)


def _gpu_wheel(_: Sandbox, target: Path) -> None:
    """A wheel of that name with nothing in it but its metadata: NVIDIA's has 200 MB."""
    name, version = target.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp310-cp310-linux_aarch64\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def _any_gpu_wheel(sandbox: Sandbox, target: Path) -> None:
    _gpu_wheel(sandbox, target.with_name(target.name.replace("*", "1.23.0", 1)))


def _inventory(sandbox: Sandbox, target: Path) -> None:
    """One board: the one that the page has deployed to before, so that there is a release to go back to."""
    target.write_text(
        f"door ansible_host=raspberrypi.local edge_centernet_root={sandbox.board}\n\n[all:vars]\n"
        f"ansible_user={getpass.getuser()}\nansible_ssh_args=-F {sandbox.services.ssh_config}\n"
        "ansible_python_interpreter=/usr/bin/python3\n"
    )


def _card(_: Sandbox, target: Path) -> None:
    """A small packed disk image."""
    from disks import disk_image, pack

    plain = disk_image(target.with_suffix("") if target.suffix == ".xz" else target)
    if target.suffix == ".xz":
        pack(plain, "xz").rename(target)
        plain.unlink(missing_ok=True)


def _base_image(_: Sandbox, target: Path) -> None:
    """As Raspberry Pi OS is laid out, with the files that are looked at."""
    from test_card_image import make_base

    plain = make_base(target.with_suffix(""))
    subprocess.run(["xz", "-0", "-T0", plain], check=True)


def _tegra(_: Sandbox, target: Path) -> None:
    from test_jetson_flash import l4t

    l4t(target.parent, 36)


def _ssh_key(_: Sandbox, target: Path) -> None:
    from keys import new_key

    new_key(target.with_suffix(""))


def _heads(_: Sandbox, target: Path) -> None:
    """Heads of the sample photo as the documented engine gives them, raw int8: heat.bin, size.bin, offset.bin."""
    from edge_centernet.image import prepare, read_image
    from edge_centernet.runtimes import open_runtime

    runtime = open_runtime(find_model("centernet-nano-256", ".tflite"), "tflite")  # NHWC, as export-c's default has it
    tensor, _box = prepare(read_image(ASSETS / "sample.jpg"), runtime.manifest)
    heads = runtime.run(tensor)  # (C, H, W)
    for role, head in heads._asdict().items():
        np.ascontiguousarray(head.transpose(1, 2, 0)).tofile(target.with_name(f"{role}.bin"))
    runtime.close()


def _program(_: Sandbox, target: Path) -> None:
    """That prints the version of the C library."""
    target.write_text(
        "#include <edgecn_decode.h>\n#include <stdio.h>\n"
        'int main(void) { return printf("%u\\n", (unsigned)(ecn_version() >> 16)) < 0; }\n'
    )


def _camera_toml(_: Sandbox, target: Path) -> None:
    target.write_text('camera = "/dev/video0"\nwait = true\n')


_WORD = r"(?<![\w./~-])"
Maker = Callable[[Sandbox, Path], None]
MAKERS: dict[str, Maker] = {
    _WORD + r"(?:holiday/|photos\b)": _photo_folder,
    _WORD + r"(?:photo|door|gate)\.jpg\b": _photo,
    _WORD + r"film\.mp4\b": _film,
    _WORD + r"(?:voc2007/|playing_cards/|street/|shop/)?instances(?:_train|_val)?\.json\b": _dataset,
    _WORD + r"runs/mine/float\.safetensors\b": _float_model,
    _WORD + r"(?:converted/)?mine\.(?:tflite|onnx|xml)\b": _model_file,
    _WORD + r"model_best\.pth\b": _original_centernet,
    _WORD + r"(?:resnet18|mobilenet_v2)-\w+\.pth\b": _torchvision,
    _WORD + r"mobilenet_v2_[\d.]+_\w+\.safetensors\b": _backbone,
    _WORD + r"onnxruntime_gpu-\d\S+\.whl\b": _gpu_wheel,
    _WORD + r"onnxruntime_gpu-\*\S+\.whl\b": _any_gpu_wheel,
    _WORD + r"edge-centernet-\d\S*-pi4-\S+\.tar\b": _bundle,
    _WORD + r"hosts\b(?= --)": _inventory,
    _WORD + r"edge-centernet-pi4\.img\.xz\b": _card,
    _WORD + r"raspios\S*\.img\.xz\b": _base_image,
    r"~/(?:\w+/)?Linux_for_Tegra\b": _tegra,
    r"~/\.ssh/id_ed25519\.pub\b": _ssh_key,
    _WORD + r"heat\.bin\b": _heads,
    _WORD + r"app\.c\b": _program,
    _WORD + r"camera\.toml\b": _camera_toml,
}


@contextmanager
def services(folder: Path) -> Iterator[Services]:
    """Started one by one when they are needed, ended at the end."""
    with ExitStack() as stack:
        yield Services(folder, stack)
