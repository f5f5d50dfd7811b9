"""What a hint asks pip for where an optional package is missing."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from edge_centernet import extras
from edge_centernet.extras import command_for, pip_command, requirements_of


def expected(extra: str) -> set[str]:
    """The packages of an extra, as pip itself reads the metadata."""
    found = set()
    for text in metadata.requires("edge-centernet") or ():
        one = Requirement(text)
        if (
            one.marker is None
            or not one.marker.evaluate({"extra": extra})
            or one.marker.evaluate({"extra": ""})
        ):
            continue
        if one.name == "edge-centernet":
            found |= {package for inner in one.extras for package in expected(inner)}
        else:
            found.add(f"{one.name}{one.specifier}")
    return found


@pytest.mark.parametrize(
    "extra", ["openvino", "tflite", "onnxruntime", "live", "heic", "eval", "label", "convert", "train"]
)
def test_the_packages_of_an_extra_are_named_and_not_this_one(extra: str) -> None:
    """For this Python and processor; this package is in no index, and a stranger could take its name."""
    found = requirements_of(extra)
    assert {f"{one.name}{one.specifier}" for one in map(Requirement, found)} == expected(extra)
    assert len(found) == len(set(found)) > 0
    assert "edge-centernet" not in " ".join(found)


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ('{{"url": "file://{0}", "dir_info": {{}}}}', ["{0}[live]"]),
        ('{{"url": "file://{0}", "dir_info": {{"editable": true}}}}', ["-e", "{0}[live]"]),
        ('{{"url": "file://{0}/a%20b.whl", "archive_info": {{}}}}', ["{0}/a b.whl[live]"]),
        ('{{"url": "file://{0}/gone", "dir_info": {{}}}}', None),
        ('{{"url": "https://example.org{0}", "archive_info": {{}}}}', None),
        (None, None),
    ],
)
def test_an_extra_comes_from_where_the_package_came(
    origin: str | None, wanted: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One short word instead of twelve packages; by their names where the clone or wheel is gone."""
    (tmp_path / "a b.whl").touch()
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path)
    text = None if origin is None else origin.format(tmp_path)
    asked = metadata.PathDistribution.read_text
    monkeypatch.setattr(
        metadata.PathDistribution,
        "read_text",
        lambda self, name: text if name == "direct_url.json" else asked(self, name),
    )
    packages = requirements_of("live") if wanted is None else [one.format(tmp_path) for one in wanted]
    assert shlex.split(command_for("live")) == [sys.executable, "-m", "pip", "install", *packages]


def test_a_python_that_takes_no_packages_gets_an_environment() -> None:
    """Debian's own refuses pip (PEP 668)."""
    assert pip_command("a>=1", python="/my python", managed=False) == "'/my python' -m pip install 'a>=1'"
    assert pip_command("a", managed=True).startswith("python3 -m venv --system-site-packages .venv && .venv/")


def test_a_checkout_that_is_run_where_it_lies_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its build left metadata there, which do not say where they came from."""
    (tmp_path / "setup.cfg").touch()
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: None))
    assert shlex.split(command_for("live"))[-1] == f"{tmp_path}[live]"
