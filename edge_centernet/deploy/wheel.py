"""Our own wheel for another processor, made of the installed package: no checkout, no build, always the same bytes.

The C decoder is compiled for the board with a cross compiler; everything else is copied. Its extension uses
Python's stable ABI, so one file serves every Python from 3.10 on.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import edge_centernet
from edge_centernet.errors import MissingDependency

PACKAGE = Path(edge_centernet.__file__).parent
_COMPILERS = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf", "x86_64": "x86_64-linux-gnu"}
_SOURCES = ("_glue.c", "edgecn_decode.c")  # as in setup.py, and the options too
_OPTIONS = (
    "-std=gnu99",
    "-O3",
    "-DNDEBUG",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-DPy_LIMITED_API=0x030A0000",
)
# Python.h asks for what this computer's configuration says; the board's compiler knows better.
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
    """Write the wheel of this package for a machine ("aarch64", "armv7l", "x86_64") into `folder`; returns its path.

    suffix: of the model files to keep; what other engines read is left out. compiled: with the C decoder.
    Raises MissingDependency where the cross compiler or Python's headers are missing.
    """
    version = metadata.version("edge-centernet")
    tag = f"cp310-abi3-manylinux_2_17_{machine}" if compiled else "py3-none-any"
    info = f"edge_centernet-{version}.dist-info"
    files = _package_files(suffix)
    if compiled:
        files["edge_centernet/decoder/_decoder.abi3.so"] = compile_decoder(machine)
    wheel = f"Wheel-Version: 1.0\nGenerator: edge-centernet bundle\nRoot-Is-Purelib: {str(not compiled).lower()}\n"
    # Without the README, which an editable install has as it was when it was made.
    files[f"{info}/METADATA"] = _installed_text("METADATA").split(b"\n\n")[0] + b"\n"
    files[f"{info}/entry_points.txt"] = _installed_text("entry_points.txt")
    files[f"{info}/WHEEL"] = f"{wheel}Tag: {tag}\n".encode()
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    path = folder / f"edge_centernet-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return path


def _package_files(suffix: str) -> dict[str, bytes]:
    """Name in the wheel -> content, sorted. The three linked folders are followed, as a build maps them in."""
    model_files = {".onnx", ".xml", ".bin", ".tflite", ".safetensors"}
    keep = {suffix, ".bin"} if suffix == ".xml" else {suffix}
    files = {}
    for path in _walk(PACKAGE):
        name = path.relative_to(PACKAGE.parent).as_posix()
        other_engine = path.parent.name == "model_zoo" and path.suffix in model_files - keep
        if path.suffix not in (".so", ".pyd", ".pyc") and not other_engine:
            files[name] = path.read_bytes()
    return files


def _walk(folder: Path) -> list[Path]:
    """Every file below, links to folders followed, in one order everywhere."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in (
            "__pycache__",
            "example",
        ):  # C examples are no part of the package
            found += _walk(path)
        elif path.is_file():
            found.append(path)
    return found


def _installed_text(name: str) -> bytes:
    found = metadata.distribution("edge-centernet")
    # A checkout that was built in place has its metadata under the older name.
    text = found.read_text(name) or (found.read_text("PKG-INFO") if name == "METADATA" else None)
    if not text:
        raise MissingDependency(f"edge-centernet is installed without {name}: pip install it again")
    return text.encode()


def _record(files: dict[str, bytes], own_name: str) -> bytes:
    """The wheel's list of files with hashes and sizes (PEP 376, PEP 427)."""
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own_name},,", ""]).encode()


def compile_decoder(machine: str) -> bytes:
    """The C decoder as a Python extension (stable ABI of 3.10) for that machine."""
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
        # Debian's Python.h asks for a file of the board's own architecture, which this computer has not.
        debian = folder / triplet / include.name
        debian.mkdir(parents=True)
        (debian / "pyconfig.h").write_text("")
        output = folder / "_decoder.abi3.so"
        sources = [str(PACKAGE / "decoder" / name) for name in _SOURCES]
        flags = [*_OPTIONS, "-include", str(folder / "board.h"), f"-I{folder}", f"-I{include}", "-s"]
        # The name of the temporary folder must not find its way into the file.
        flags += [f"-ffile-prefix-map={folder}=.", f"-ffile-prefix-map={PACKAGE}=.", "-Wl,--build-id=none"]
        result = subprocess.run(
            [compiler, *flags, *sources, "-o", str(output)], capture_output=True, text=True, check=False
        )
        if result.returncode:
            lines = [
                line for line in result.stderr.splitlines() if "error" in line
            ] or result.stderr.splitlines()
            raise MissingDependency(
                f"{compiler} cannot compile the C decoder: {lines[0]}; use --no-c to go without"
            )
        return output.read_bytes()
