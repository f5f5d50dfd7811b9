"""Make a bundle: one signed file with all that a board needs (model, wheels, service, check photo).

The same inputs give the same bytes. The layout is defined by agent.py, which unpacks the bundle on the board.
The wheels are those of the target's lock file, verified by hash, and our own, which is made here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import edge_centernet
from edge_centernet import __version__
from edge_centernet.artifact import check_content, files_of, read_manifest
from edge_centernet.camera_config import read_config
from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import Target, platforms
from edge_centernet.deploy.signing import sign
from edge_centernet.errors import ConfigError, MissingDependency, SourceError
from edge_centernet.files import cache_home, sha256
from edge_centernet.model_zoo import find_model, is_name
from edge_centernet.progress import Say

PACKAGE = Path(edge_centernet.__file__).parent
SCHEMA = 1
SAMPLE = PACKAGE / "assets" / "sample.jpg"
ROUGH = 0.02  # of the photo's longer side: how far a box may be off where an engine rounds differently
UNPACKED = (
    1.4  # disk space of installed packages, compiled modules included, over the content of their wheels
)
# A wheel given by hand replaces this package of the lock.
_STANDS_IN = {"onnxruntime-gpu": "onnxruntime", "opencv-python": "opencv-python-headless"}
_CAMERA = """\
# Options of `edge-centernet detect` under their own names; docs/service.md has more.
camera = "/dev/video0"
wait = true                 # a camera that is not there at boot is waited for
format = "none"             # no record of every frame
"""


@dataclass(frozen=True)
class Contents:
    """What to pack.

    model: path of a model file, or name of a shipped model.
    photo: the image that the board is checked with.
    camera: configuration of the first camera; None for /dev/video0.
    only_model: leave out the packages, for a board that has a release.
    wheels: used instead of those of the lock.
    compiled: include the C decoder.
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
    """Write a bundle into the folder `out`, complete or not at all; returns its path.

    Args:
        target: the board.
        contents: what to pack.
        key: the private ssh key to sign with.
        out: folder, made if it is missing.
        say: called with a line of text as work goes on.

    Raises ArtifactError, ConfigError, SourceError or MissingDependency.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # 1. The model, and what it detects here: that is what the board must detect too.
        model = _model_file(target, contents.model, folder, say)
        say(f"Running {model.name} on {contents.photo.name}, as the board will be asked to")
        expected = expect(model, target.runtime.name, contents.photo, exact=target.engine != "tflite-runtime")
        files = {f"model/{part.name}": part.read_bytes() for part in files_of(model)}
        files["check/photo.jpg"] = contents.photo.read_bytes()
        files["check/expected.json"] = _json(expected)
        installed = sum(map(len, files.values()))
        # 2. The packages and the service, unless the board has them.
        if not contents.only_model:
            packages = _wheels(target, contents, folder, say)
            files |= {f"wheels/{path.name}": path.read_bytes() for path in packages}
            # pip installs exactly these files on the board.
            lines = [f"{wheel_name(p)}=={p.name.split('-')[1]} --hash=sha256:{sha256(p)}" for p in packages]
            files["requirements.txt"] = ("\n".join(lines) + "\n").encode()
            files[agent.UNIT] = (PACKAGE / "assets" / agent.UNIT).read_bytes()
            files["install"] = Path(agent.__file__).read_bytes()
            files["camera.toml"] = (
                _CAMERA.encode() if contents.camera is None else camera_settings(contents.camera)
            )
            # While pip works, the wheels and what they unpack to are on the disk at the same time.
            unpacked = 0
            for path in packages:
                with zipfile.ZipFile(path) as archive:
                    unpacked += sum(entry.file_size for entry in archive.infolist())
                installed += path.stat().st_size
            installed += int(UNPACKED * unpacked)
        # 3. The manifest, last because it has the size of all the others.
        files[agent.MANIFEST] = _manifest(target, model, contents.only_model, installed)
        out.mkdir(parents=True, exist_ok=True)
        kind = "model" if contents.only_model else f"py{target.python.replace('.', '')}"
        path = out / f"edge-centernet-{__version__}-{target.name}-{kind}-{model.stem}.tar"
        say(f"Signing and packing {path}")
        write_tar(path, files, key)
    return path


def _model_file(target: Target, model: str, folder: Path, say: Say) -> Path:
    """The model file in the target's format; the one for TensorRT is made here from a shipped model."""
    suffix = target.runtime.suffix
    if target.symmetric and is_name(model):
        from edge_centernet.converters import convert

        made = convert(find_model(model, suffix), ["tensorrt"], "int8", folder / "model", progress=say)
        return made[0].path
    path = find_model(model, suffix)
    if path.suffix.lower() != suffix:
        raise ConfigError(
            f"{path}: {target.name} with {target.engine} runs {suffix} files; "
            "make one with 'edge-centernet convert'"
        )
    check_content(path, read_manifest(path))
    return path


def expect(model: Path, runtime: str, photo: Path, exact: bool = True) -> dict[str, Any]:
    """What `detect` finds in the photo at the model's own threshold: the content of check/expected.json.

    exact: whether the board's engine computes the same bits as this computer's, or nearly so. Raises
    SourceError where the model detects nothing, because a board that does so too may be broken.
    """
    from edge_centernet.detector import Detector
    from edge_centernet.imageio import read_image
    from edge_centernet.runtimes import open_runtime

    with closing(open_runtime(model, runtime)) as opened:
        classes = opened.manifest.model.classes
        # One threshold for all classes: the board's `detect` is called with a single --threshold.
        threshold = opened.manifest.model.threshold
        image = read_image(photo)  # (H, W, 3)
        found = Detector(opened, threshold=threshold).detect(image)
    if not len(found):
        raise SourceError(
            f"{photo}: expected a photo with something that {model.name} finds above {threshold:g}, "
            "found nothing; give another one with --check-photo"
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
    """What the board reads before it unpacks anything. installed: bytes that it needs on its disk."""
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
    """The content of a camera's configuration, after reading it as `edge-centernet detect --config` will.

    Raises ConfigError for one that the board would refuse.
    """
    read_config(path, variables=False)  # they are set on the board
    return path.read_bytes()


def write_tar(path: Path, files: Mapping[str, bytes], key: Path) -> None:
    """Write a signed bundle with these files, without times, owners or modes of this computer.

    The list of hashes and its signature come first: the board verifies each file as soon as it reads it.
    """
    names = sorted(files)
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in names).encode()
    entries = [(agent.SUMS, sums), (agent.SIGNATURE, sign(sums, key))]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # USTAR has no extended headers, in which another version of Python may write something else.
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in [*entries, *((name, files[name]) for name in names)]:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = 0o755 if name == "install" else 0o644
                archive.addfile(entry, io.BytesIO(content))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# Wheels of others, from PyPI


def _wheels(target: Target, contents: Contents, folder: Path, say: Say) -> list[Path]:
    """The wheels of the lock or those given in their place, and our own, in the order of their names."""
    given = {wheel_name(path): path for path in contents.wheels}
    replaced = {*target.left_out, *(_STANDS_IN.get(name, name) for name in given)}
    lines = [line for line in target.lock if normal(line.split("==")[0]) not in replaced]
    say(f"Fetching {len(lines)} wheels for {target.machine}, Python {target.python}")
    found = fetch(target, lines)
    say(f"Making the wheel of edge-centernet {__version__} for {target.machine}")
    own = own_wheel(target.machine, target.runtime.suffix, folder, contents.compiled)
    return sorted([*found, *given.values(), own], key=lambda path: path.name)


def fetch(target: Target, lines: list[str]) -> list[Path]:
    """The wheels of these requirements lines, from the cache or from PyPI.

    Raises MissingDependency when pip cannot get them.
    """
    cache = cache_home() / "edge-centernet/wheels"
    cache.mkdir(parents=True, exist_ok=True)
    # The cache is read by hash, never by name: a damaged or replaced file is simply not found.
    cached = {sha256(path): path for path in cache.glob("*.whl")}
    hashes = {line: line.rpartition("sha256:")[2] for line in lines}
    missing = [line for line in lines if hashes[line] not in cached]
    if missing:
        # pip takes only wheels with these tags. An engine may be content with an older glibc than 2.28, for
        # which NumPy and OpenCV are built.
        glibc = target.glibc if target.machine == "armv7l" else max(target.glibc, (2, 28))
        tags = [option for tag in platforms(target.machine, glibc) for option in ("--platform", tag)]
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            lock = Path(temporary) / "lock.txt"
            lock.write_text("\n".join(missing) + "\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            command += ["--disable-pip-version-check", "--only-binary=:all:"]
            command += ["--python-version", target.python, *tags, "--dest", temporary, "-r", str(lock)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
                reason = errors[-1] if errors else "no reason given"
                raise MissingDependency(
                    f"wheels for {target.name}: pip cannot fetch them: {reason}; is there a network?"
                )
            for path in Path(temporary).glob("*.whl"):
                path.replace(cache / path.name)
        cached = {sha256(path): path for path in cache.glob("*.whl")}
    return [cached[hashes[line]] for line in lines]


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


# Our own wheel: made of the installed package for another processor, without a checkout or a build


_COMPILERS = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf", "x86_64": "x86_64-linux-gnu"}
_SOURCES = ("_glue.c", "edgecn_decode.c")  # as in setup.py, and so are the options
_OPTIONS = ("-std=gnu99", "-O3", "-DNDEBUG", "-ffp-contract=off", "-fPIC", "-shared")
# The stable ABI of Python 3.10: one file serves every later Python.
_ABI = "-DPy_LIMITED_API=0x030A0000"
# Python.h includes the configuration of this computer; the board's compiler knows the sizes of its own types.
_PYCONFIG = """\
#define Py_PYCONFIG_H
#define SIZEOF_INT __SIZEOF_INT__
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_SHORT __SIZEOF_SHORT__
#define SIZEOF_FLOAT __SIZEOF_FLOAT__
#define SIZEOF_DOUBLE __SIZEOF_DOUBLE__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#define SIZEOF_TIME_T __SIZEOF_LONG__
#define SIZEOF_PID_T 4
#define ALIGNOF_SIZE_T __SIZEOF_SIZE_T__
#define STDC_HEADERS 1
#define HAVE_STDINT_H 1
#define HAVE_STDARG_PROTOTYPES 1
#define HAVE_PROTOTYPES 1
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a ZIP can hold


def own_wheel(machine: str, suffix: str, folder: Path, compiled: bool = True) -> Path:
    """Write this package's wheel for a machine into `folder`; returns its path.

    machine: "aarch64", "armv7l" or "x86_64". suffix: of the model files to include, without those that only
    other engines read. compiled: include the C decoder. The same package always gives the same bytes. Raises
    MissingDependency where the cross compiler or Python's headers are missing.
    """
    version = metadata.version("edge-centernet")
    tag = f"cp310-abi3-manylinux_2_17_{machine}" if compiled else "py3-none-any"
    info = f"edge_centernet-{version}.dist-info"
    # 1. The package. Links to the three top-level folders are followed, as a build maps them in.
    models = {".onnx", ".xml", ".bin", ".tflite", ".safetensors"}
    other_models = models - ({suffix, ".bin"} if suffix == ".xml" else {suffix})  # an .xml has its .bin
    files = {}
    for path in _walk(PACKAGE):
        unused = path.parent.name == "model_zoo" and path.suffix in other_models
        if path.suffix not in (".so", ".pyd", ".pyc") and not unused:
            files[path.relative_to(PACKAGE.parent).as_posix()] = path.read_bytes()
    if compiled:
        files["edge_centernet/decoder/_decoder.abi3.so"] = compile_decoder(machine)
    # 2. The metadata, without the README: an editable install has that of the day when it was made.
    files[f"{info}/METADATA"] = _installed_text("METADATA").split(b"\n\n")[0] + b"\n"
    files[f"{info}/entry_points.txt"] = _installed_text("entry_points.txt")
    wheel = "Wheel-Version: 1.0\nGenerator: edge-centernet bundle\n"
    files[f"{info}/WHEEL"] = f"{wheel}Root-Is-Purelib: {str(not compiled).lower()}\nTag: {tag}\n".encode()
    # 3. The list of all files with hash and size (PEP 376, PEP 427), which lists itself without either.
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"edge_centernet-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return path


def _walk(folder: Path) -> list[Path]:
    """Every file below a folder, links to folders followed, in the same order everywhere."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        # The C examples ("example") are no part of the package.
        if path.is_dir() and path.name not in ("__pycache__", "example"):
            found += _walk(path)
        elif path.is_file():
            found.append(path)
    return found


def _installed_text(name: str) -> bytes:
    """A file of the installed package's metadata."""
    found = metadata.distribution("edge-centernet")
    # A checkout that was built in place has its metadata under the older name.
    text = found.read_text(name) or (found.read_text("PKG-INFO") if name == "METADATA" else None)
    if not text:
        raise MissingDependency(f"edge-centernet is installed without {name}: pip install it again")
    return text.encode()


def compile_decoder(machine: str) -> bytes:
    """Compile the C decoder for a machine, as a Python extension with the stable ABI of 3.10.

    Raises MissingDependency with the package that brings the compiler or the headers.
    """
    triplet = _COMPILERS[machine]
    compiler = f"{triplet}-gcc" if machine != platform.machine() else shutil.which(f"{triplet}-gcc") or "gcc"
    include = Path(sysconfig.get_path("include"))
    if shutil.which(compiler) is None:
        raise MissingDependency(
            f"the C decoder for {machine} needs {compiler}: apt-get install gcc-{triplet.replace('_', '-')} "
            "(or --no-c for the slower NumPy decoder)"
        )
    if not (include / "Python.h").is_file():
        raise MissingDependency(
            f"the C decoder needs {include}/Python.h: apt-get install python3-dev (or --no-c)"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "board.h").write_text(_PYCONFIG)
        # Debian's Python.h includes a file of the board's architecture, which this computer does not have.
        debian = folder / triplet / include.name
        debian.mkdir(parents=True)
        (debian / "pyconfig.h").write_text("")
        output = folder / "_decoder.abi3.so"
        sources = [str(PACKAGE / "decoder" / name) for name in _SOURCES]
        flags = [*_OPTIONS, _ABI, "-include", str(folder / "board.h"), f"-I{folder}", f"-I{include}", "-s"]
        # The name of the temporary folder must not find its way into the file.
        flags += [f"-ffile-prefix-map={folder}=.", f"-ffile-prefix-map={PACKAGE}=.", "-Wl,--build-id=none"]
        result = subprocess.run(
            [compiler, *flags, *sources, "-o", str(output)], capture_output=True, text=True, check=False
        )
        if result.returncode:
            lines = result.stderr.splitlines()
            errors = [line for line in lines if "error" in line] or lines
            raise MissingDependency(
                f"{compiler} cannot compile the C decoder: {errors[0]}; use --no-c to go without"
            )
        return output.read_bytes()
