"""One signed file with all that a board needs: model, wheels, service, check. The same bytes from the same inputs.

The layout is agent.py's, which unpacks it on the board; the wheels are those of the target's lock file, by
hash.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_centernet import __version__
from edge_centernet.artifact import check_content, files_of, read_manifest
from edge_centernet.camera_config import read_config
from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import Target, platforms
from edge_centernet.deploy.signing import sign
from edge_centernet.deploy.wheel import PACKAGE, own_wheel
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.files import sha256
from edge_centernet.model_zoo import find_model, is_name
from edge_centernet.progress import Say

SCHEMA = 1
SAMPLE = PACKAGE / "assets" / "sample.jpg"
WHEELS = Path("~/.cache/edge-centernet/wheels")
ROUGH = 0.02  # of the photo's longer side, that a box may be off where an engine rounds otherwise
UNPACKED = 1.4  # disk that packages take, compiled modules included, over their size in the wheels
# A wheel given by hand stands in for the package of the lock that it replaces.
_STANDS_IN = {"onnxruntime-gpu": "onnxruntime", "opencv-python": "opencv-python-headless"}
_CAMERA = """\
# Options of `edge-centernet detect` under their own names; docs/service.md has more.
camera = "/dev/video0"
wait = true                 # a camera that is not there at boot is waited for
format = "none"             # no record of every frame
"""


@dataclass(frozen=True)
class Contents:
    """What to pack: model, a path or name; photo, what the board is checked with; camera, the first configuration.

    only_model: for a board that has a release; wheels: given by hand, instead of those of the lock; compiled:
      with the
    C decoder.
    """

    model: str
    photo: Path = SAMPLE
    camera: Path | None = None
    only_model: bool = False
    wheels: tuple[Path, ...] = ()
    compiled: bool = True


def make_bundle(
    target: Target, contents: Contents, key: Path, out: Path, say: Say = lambda line: None
) -> Path:
    """Write the bundle into the folder `out`, whole or not at all; returns its path.

    say: called with one line as work goes on. Raises ArtifactError, ConfigError, SourceError or
      MissingDependency.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = _model_file(target, contents.model, folder, say)
        files = _model_files(target, model, contents.photo, say)
        installed = sum(map(len, files.values()))
        if not contents.only_model:
            packages = _wheels(target, contents, folder, say)
            files |= {f"wheels/{path.name}": path.read_bytes() for path in packages}
            files["requirements.txt"] = _requirements(packages)
            files[agent.UNIT] = (PACKAGE / "assets" / agent.UNIT).read_bytes()
            files["install"] = Path(agent.__file__).read_bytes()
            files["camera.toml"] = (
                _CAMERA.encode() if contents.camera is None else camera_settings(contents.camera)
            )
            installed += int(UNPACKED * sum(map(_unpacked, packages))) + sum(
                p.stat().st_size for p in packages
            )
        files[agent.MANIFEST] = _manifest(target, model, contents.only_model, installed)
        out.mkdir(parents=True, exist_ok=True)
        kind = "model" if contents.only_model else f"py{target.python.replace('.', '')}"
        path = out / f"edge-centernet-{__version__}-{target.name}-{kind}-{model.stem}.tar"
        say(f"Signing and packing {path}")
        _write_tar(path, files, key)
    return path


def _model_file(target: Target, model: str, folder: Path, say: Say) -> Path:
    """The file in the target's format; for TensorRT a shipped model's symmetric one is made here."""
    suffix = target.runtime.suffix
    if target.symmetric and is_name(model):
        from edge_centernet.converters import convert

        return convert(find_model(model, suffix), ["tensorrt"], "int8", folder / "model", progress=say)[
            0
        ].path
    path = find_model(model, suffix)
    if path.suffix.lower() != suffix:
        raise ConfigError(
            f"{path}: {target.name} with {target.engine} runs {suffix} files; make one with 'edge-centernet convert'"
        )
    check_content(path, read_manifest(path))
    return path


def _model_files(target: Target, model: Path, photo: Path, say: Say) -> dict[str, bytes]:
    """model/ and check/: the file, a photo, and what this computer finds on it."""
    say(f"Running {model.name} on {photo.name}, as the board will be asked to")
    expected = expect(model, target.runtime.name, photo, exact=target.engine != "tflite-runtime")
    files = {f"model/{part.name}": part.read_bytes() for part in files_of(model)}
    files["check/photo.jpg"] = photo.read_bytes()
    files["check/expected.json"] = _json(expected)
    return files


def expect(model: Path, runtime: str, photo: Path, exact: bool = True) -> dict[str, Any]:
    """What `detect` finds on the photo at the model's own threshold, as check/expected.json has it.

    exact: the board's engine computes the same bits as this computer's, or nearly. Raises SourceError where
      it finds
    nothing: a board that finds nothing could not be told from a broken one.
    """
    from edge_centernet.detector import Detector
    from edge_centernet.imageio import read_image
    from edge_centernet.runtimes import open_runtime

    with closing(open_runtime(model, runtime)) as opened:
        classes = opened.manifest.model.classes
        threshold = opened.manifest.model.threshold
        image = read_image(photo)
        found = Detector(opened, threshold=threshold).detect(image)  # one for all, as the board is told
    if not len(found):
        raise SourceError(
            f"{photo}: expected a photo with something that {model.name} finds above {threshold:g}, found nothing; "
            "give another one with --check-photo"
        )
    detections = [
        {
            "class": classes[class_id],
            "score": round(float(score), 4),
            "box": [round(float(x), 2) for x in box],
        }
        for box, score, class_id in zip(found.xyxy, found.score, found.class_id, strict=True)
    ]
    pixels = agent.BOX_TOLERANCE if exact else ROUGH * max(image.shape)
    common = {"model": model.name, "runtime": runtime, "threshold": threshold, "box_tolerance": pixels}
    return {**common, "detections": detections}


def _manifest(target: Target, model: Path, only_model: bool, installed: int) -> bytes:
    own = read_manifest(model).model
    return _json(
        {
            "schema": SCHEMA,
            "kind": "model" if only_model else "full",
            "version": __version__,
            "target": target.name,
            "board": target.board,
            "machine": target.machine,
            "python": target.python,
            "glibc": list(target.glibc),
            "engine": target.engine,
            "runtime": target.runtime.name,
            "model": {
                "file": model.name,
                "name": own.name,
                "version": own.version,
                "classes": list(own.classes),
            },
            "system_packages": target.system_packages,
            "apt": list(target.apt),
            "installed_bytes": installed,
        }
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def camera_settings(path: Path) -> bytes:
    """A camera's configuration, read once as `edge-centernet detect --config` will read it on the board.

    Raises ConfigError for one that it would refuse.
    """
    read_config(path)
    return path.read_bytes()


# Wheels


def _wheels(target: Target, contents: Contents, folder: Path, say: Say) -> list[Path]:
    """The lock's wheels, those given by hand in their place, and our own, by name."""
    given = {wheel_name(path): path for path in contents.wheels}
    replaced = {*target.left_out, *(_STANDS_IN.get(name, name) for name in given)}
    lines = [line for line in target.lock if normal(line.split("==")[0]) not in replaced]
    say(f"Fetching {len(lines)} wheels for {target.machine}, Python {target.python}")
    found = fetch(target, lines)
    say(f"Making the wheel of edge-centernet {__version__} for {target.machine}")
    own = own_wheel(target.machine, target.runtime.suffix, folder, contents.compiled)
    return sorted([*found, *given.values(), own], key=lambda path: path.name)


def fetch(target: Target, lines: list[str]) -> list[Path]:
    """The wheels of those requirement lines: from the cache by their hashes, else by pip, which checks them.

    Raises MissingDependency when pip cannot get them.
    """
    cache = WHEELS.expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    kept = {sha256(path): path for path in cache.glob("*.whl")}
    hashes = {line: line.rpartition("sha256:")[2] for line in lines}
    if missing := [line for line in lines if hashes[line] not in kept]:
        _download(target, missing, cache)
        kept = {sha256(path): path for path in cache.glob("*.whl")}
    return [kept[hashes[line]] for line in lines]


def _download(target: Target, lines: list[str], cache: Path) -> None:
    glibc = target.glibc if target.machine == "armv7l" else max(target.glibc, (2, 28))
    tags = [option for tag in platforms(target.machine, glibc) for option in ("--platform", tag)]
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        lock = Path(temporary) / "lock.txt"
        lock.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += [
            "--disable-pip-version-check",
            "--only-binary=:all:",
            "--python-version",
            target.python,
            *tags,
        ]
        command += ["--dest", temporary, "-r", str(lock)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            told = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or [
                "no reason given"
            ]
            raise MissingDependency(
                f"wheels for {target.name}: pip cannot fetch them: {told[-1]}; is there a network?"
            )
        for path in Path(temporary).glob("*.whl"):
            path.replace(cache / path.name)


def _requirements(packages: list[Path]) -> bytes:
    """What pip installs on the board: exactly these files."""
    lines = [
        f"{wheel_name(path)}=={path.name.split('-')[1]} --hash=sha256:{sha256(path)}" for path in packages
    ]
    return ("\n".join(lines) + "\n").encode()


def wheel_name(path: Path) -> str:
    """The normalized project name in a wheel's file name. Raises ConfigError for another kind of file."""
    parts = path.name.split("-")
    if path.suffix != ".whl" or len(parts) not in (5, 6) or not path.is_file():
        raise ConfigError(
            f"{path}: expected a wheel (NAME-VERSION-PYTHON-ABI-PLATFORM.whl), got something else"
        )
    return normal(parts[0])


def normal(name: str) -> str:
    """A project name as PyPI compares it (PEP 503)."""
    return "-".join(
        part for part in name.strip().lower().replace("_", "-").replace(".", "-").split("-") if part
    )


def _unpacked(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


# The file


def _write_tar(path: Path, files: Mapping[str, bytes], key: Path) -> None:
    """Hashes and signature first, so that nothing is read before it is trusted; no times, owners or modes of here."""
    names = sorted(files)
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in names).encode()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in [(agent.SUMS, sums), (agent.SIGNATURE, sign(sums, key))]:
                _add(archive, name, content)
            for name in names:
                _add(archive, name, files[name])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o755 if name == "install" else 0o644
    archive.addfile(entry, io.BytesIO(content))
