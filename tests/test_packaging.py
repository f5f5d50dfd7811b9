"""What a user installs: the right files, the right dependencies, from any kind of checkout."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_centernet import model_zoo
from edge_centernet.cli import _EXTRAS, COMMANDS

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("calibration", "converters", "runtimes")
NOT_FOR_USERS = {"dev", "docs"}  # extras that nothing in the package imports: tools
# What a checkout holds that matters to a build; scratch folders of a developer do not.
CHECKOUT = (
    *("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"),
    *("edge_centernet", "docs", "scripts", "tests", *LINKED),
)
SCRATCH = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", ".*_cache", ".hypothesis")
MODELS_BYTES_MAX = 30_000_000  # all files of all shipped models together

# Import name -> name on PyPI, where they differ.
DISTRIBUTION = {
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-python-headless",
    "faster_coco_eval": "faster-coco-eval",
    "paho": "paho-mqtt",
    "pillow_heif": "pillow-heif",
    "prometheus_client": "prometheus-client",
    "tflite_runtime": "tflite-runtime",
    "yaml": "pyyaml",
    "PIL": "pillow",
}
# Folder or module of the package -> the extras a user needs for it. What is not named here must do with the
# base.
EXTRAS = {
    "converters": ("convert",),
    "audit/server.py": ("live",),
    "outputs/prometheus.py": ("live",),
    "outputs/mqtt.py": ("live",),
    "outputs/web/server.py": ("live",),
    "calibration": ("convert",),
    "network": ("train",),
    "qdq": ("convert",),
    "train": ("train",),
    "runtimes/ov.py": ("openvino",),
    "runtimes/tflite.py": ("tflite",),
    "runtimes/ort.py": ("onnxruntime",),
}
STDLIB = sys.stdlib_module_names | {"tomllib"}  # it came with Python 3.11


def config() -> configparser.ConfigParser:
    """setup.cfg, parsed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def names(text: str) -> set[str]:
    """The project names in a list of requirements, normalised."""
    found = (re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in text.splitlines())
    return {re.sub(r"[-_.]+", "-", match.group()).lower() for match in found if match}


def extra_names(extra: str) -> set[str]:
    """All projects that one extra brings, through the extras it refers to."""
    text = config()["options.extras_require"][extra]
    bundle = re.search(r"edge-centernet\[([\w,]+)\]", text)
    below = [extra_names(other) for other in bundle.group(1).split(",")] if bundle else []
    return (names(text) - {"edge-centernet"}).union(*below)


def sources() -> Iterator[tuple[str, Path]]:
    """(path below edge_centernet with forward slashes, file) of each Python file; the links are followed."""
    for folder, _, files in os.walk(ROOT / "edge_centernet", followlinks=True):
        for name in files:
            if name.endswith(".py"):
                path = Path(folder, name)
                yield path.relative_to(ROOT / "edge_centernet").as_posix(), path


def imported(path: Path, *, top_only: bool = False) -> set[str]:
    """The PyPI names of what a file imports; `top_only`: what importing the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    if not top_only:
        modules |= set(re.findall(r'import_module\(f?"([\w.]+)', path.read_text(encoding="utf-8")))
    roots = {name.partition(".")[0] for name in modules} - {"edge_centernet", *STDLIB}
    return {DISTRIBUTION.get(name, name).lower() for name in roots}


def extras_of(source: str) -> tuple[str, ...]:
    """The extras that the file `source` may count on being installed."""
    return next(
        (extras for place, extras in EXTRAS.items() if source == place or source.startswith(f"{place}/")), ()
    )


def test_every_import_is_brought_by_an_extra() -> None:
    """No file imports a package that neither the base nor any extra for users installs."""
    users = set(config()["options.extras_require"]) - NOT_FOR_USERS
    known = names(config()["options"]["install_requires"]).union(*map(extra_names, users))
    # tflite-runtime stands in for ai-edge-litert, pycocotools for faster-coco-eval; picamera2 comes by apt.
    other = {"pycocotools", "picamera2"}
    unknown = {source: left for source, path in sources() if (left := imported(path) - known - other)}
    assert unknown == {}


def test_module_level_imports_need_only_their_own_extra() -> None:
    """Importing a file needs the base and the extras named for its folder, not more."""
    base = names(config()["options"]["install_requires"])
    missing = {}
    for source, path in sources():
        allowed = base.union(*map(extra_names, extras_of(source)))
        if left := imported(path, top_only=True) - allowed:
            missing[source] = left
    assert missing == {}


def test_command_line_names_the_extra_that_helps() -> None:
    """What the command line advises to install when an import fails does bring that import."""
    advice = {module: DISTRIBUTION.get(module, module) for module in _EXTRAS if module != "pycocotools"}
    assert {module for module, name in advice.items() if name not in extra_names(_EXTRAS[module])} == set()
    assert {extra for _, _, extra in COMMANDS.values() if extra} <= set(config()["options.extras_require"])


def copy_checkout(to: Path) -> Path:
    """A copy of what is under version control, so that no build writes into the working tree."""
    to.mkdir()
    for name in CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, symlinks=True, ignore=SCRATCH)
        elif source.exists():
            shutil.copy2(source, to / name)
    return to


def build(kind: str, tree: Path, out: Path) -> Path:
    """Run the build backend's hook build_sdist or build_wheel in `tree`; the file it made in `out`."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, out], cwd=tree, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    return build("sdist", copy_checkout(folder / "checkout"), folder)


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel made from the sdist, as an installation from PyPI without a fitting wheel would make it."""
    folder = sdist.parent
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return build("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


def members(wheel: Path) -> set[str]:
    """The files in a wheel, its own metadata left out."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_module_and_no_test(wheel: Path) -> None:
    """The wheel has the package's Python files, below edge_centernet/ only, and the C decoder once.

    `optional=True` would let it go missing in silence.
    """
    modules = {name for name in members(wheel) if name.endswith(".py")}
    assert modules == {f"edge_centernet/{source}" for source, _ in sources()}
    assert {name.partition("/")[0] for name in members(wheel)} == {"edge_centernet"}
    compiled = [name for name in members(wheel) if name.endswith((".so", ".pyd"))]
    assert [Path(name).name.split(".")[0] for name in compiled] == ["_decoder"], compiled
    assert "cp310-abi3" in wheel.name


def test_wheel_holds_models_photos_and_c_sources(wheel: Path) -> None:
    """Data that the code or a firmware author looks for is installed with it."""
    folders = ("assets", "model_zoo", "decoder")
    files = (path for folder in folders for path in (ROOT / "edge_centernet" / folder).iterdir())
    data = {path.relative_to(ROOT).as_posix() for path in files if path.suffix not in {".py", ".so", ""}}
    # _glue.c and the like are sources of the extension, and packed with it.
    assert data | {"edge_centernet/py.typed"} <= members(wheel)


def test_shipped_models_stay_small() -> None:
    """All files of the models together take 30 MB at most, and each model is there in every format."""
    folder = ROOT / "edge_centernet" / "model_zoo"
    for name in model_zoo.names():
        assert {".safetensors", ".onnx", ".xml", ".bin", ".tflite"} <= {
            p.suffix for p in folder.glob(f"{name}.*")
        }, name
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) <= MODELS_BYTES_MAX


def test_wheel_runs_where_no_checkout_is(wheel: Path, tmp_path: Path) -> None:
    """Unpacked far from the sources, all three mapped folders import and the C decoder is the one in use."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import edge_centernet.calibration, edge_centernet.converters, edge_centernet.runtimes;"
        "import edge_centernet.decoder as d; print(d.BACKEND, d.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["c", str(tmp_path / "edge_centernet" / "decoder" / "__init__.py")], (
        done.stderr
    )


def test_checkout_without_symlinks_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """Where git cannot make symlinks it leaves text files: the wheel comes out the same."""
    checkout = copy_checkout(tmp_path / "checkout")
    for name in LINKED:
        link = checkout / "edge_centernet" / name
        target = os.readlink(link)
        link.unlink()
        link.write_text(target, encoding="utf-8")
    assert members(build("wheel", checkout, tmp_path / "out")) == members(wheel)
