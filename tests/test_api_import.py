"""`import edge_centernet` is instant and loads nothing; each public name is loaded when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edge_centernet

PACKAGE = Path(edge_centernet.__file__).parent
LOADED = (
    "print(sorted(m for m in sys.modules "
    "if m.partition('.')[0] in ('edge_centernet', 'numpy', 'cv2', 'click')))"
)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_none_of_ours() -> None:
    """No module of the package but itself, and no numpy, OpenCV or click."""
    assert python(f"import sys, edge_centernet; {LOADED}") == "['edge_centernet']"


def test_help_loads_click_and_no_numpy() -> None:
    """`edge-centernet --help` loads click, the command line's own module and the errors."""
    code = (
        "import sys; from edge_centernet.cli import cli; cli.main(['--help'], standalone_mode=False);"
        + LOADED
    )
    loaded = python(code).splitlines()[-1]
    ours = [name for name in eval(loaded) if not name.startswith("click")]
    assert ours == ["edge_centernet", "edge_centernet.cli", "edge_centernet.errors", "edge_centernet.extras"]


@pytest.mark.parametrize("name", [name for name in edge_centernet.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    """And has a docstring, for it is what the reference is made of."""
    value = getattr(edge_centernet, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(edge_centernet)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    """In the words of Python itself, so that hasattr and getattr with a default work."""
    with pytest.raises(AttributeError, match="module 'edge_centernet' has no attribute 'Detektor'"):
        _ = edge_centernet.Detektor  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'Detektor'"):
        exec("from edge_centernet import Detektor")


def test_errors_are_loaded_without_numpy() -> None:
    """Asking for one name loads its module alone."""
    code = f"import sys, edge_centernet; edge_centernet.EdgeCenterNetError; {LOADED}"
    assert python(code) == "['edge_centernet', 'edge_centernet.errors', 'edge_centernet.extras']"
