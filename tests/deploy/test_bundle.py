"""Bundles: the same bytes each time, all that a board needs, and one line for what cannot be packed."""

from __future__ import annotations

import configparser
import hashlib
import json
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_centernet.deploy import agent
from edge_centernet.deploy.boards import PACKAGES, TARGETS, Target, find_target, locks, platforms
from edge_centernet.deploy.bundle import (
    Contents,
    compile_decoder,
    expect,
    make_bundle,
    normal,
    own_wheel,
    wheel_name,
)
from edge_centernet.deploy.signing import as_signers, sign, signing_key
from edge_centernet.errors import ConfigError, MissingDependency, SourceError

MODELS = Path(agent.__file__).parents[1] / "model_zoo"
ELF_MACHINE = {"aarch64": 183, "armv7l": 40, "x86_64": 62}
COMPILER = {"aarch64": "aarch64-linux-gnu-gcc", "armv7l": "arm-linux-gnueabihf-gcc", "x86_64": "gcc"}

ROOT = Path(__file__).parents[2]


def read(path: Path) -> dict[str, bytes]:
    """Name -> content of a tar."""
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_bundles_of_the_same_inputs_are_identical_to_the_byte(
    here: Target, bundle: Path, key: Path, tmp_path: Path
) -> None:
    """Wheels, the wheel made here, the signature and the tar."""
    again = make_bundle(here, Contents("centernet-mbv2-320"), key, tmp_path)
    assert again.name == bundle.name
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_a_bundle_names_no_time_owner_or_mode_of_the_computer_that_made_it(nano: Path) -> None:
    """Every entry of the tar."""
    with tarfile.open(nano) as archive:
        found = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive.getmembers()}
    assert found == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.slow
def test_a_bundle_lists_and_hashes_every_file(bundle: Path) -> None:
    """SHA256SUMS is what `sha256sum -c` reads, and stands first, its signature second."""
    files = read(bundle)
    assert list(files)[:2] == [agent.SUMS, agent.SIGNATURE]
    sums = dict(reversed(line.split("  ")) for line in files[agent.SUMS].decode().splitlines())  # type: ignore[misc]
    assert sums == {
        n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n not in (agent.SUMS, agent.SIGNATURE)
    }
    assert {"install", "camera.toml", agent.UNIT, "requirements.txt", "check/expected.json"} <= set(sums)


@pytest.mark.slow
def test_the_requirements_of_a_bundle_are_its_wheels(bundle: Path) -> None:
    """One line a wheel, with its hash, ours among them; each is in the lock of the target."""
    files = read(bundle)
    lines = files["requirements.txt"].decode().splitlines()
    wheels = {name: data for name, data in files.items() if name.startswith("wheels/")}
    hashes = {hashlib.sha256(data).hexdigest() for data in wheels.values()}
    assert {line.rpartition("sha256:")[2] for line in lines} == hashes
    assert len(lines) == len(wheels) == 16
    assert [line for line in lines if line.startswith("edge-centernet==")]


def test_the_expectation_is_what_detect_finds(nano: Path) -> None:
    """The cat and the person of the sample photo."""
    expected = json.loads(read(nano)["check/expected.json"])
    assert {item["class"] for item in expected["detections"]} == {"cat", "person"}
    assert expected["runtime"] == "tflite"
    assert agent.differs(expected["detections"], expected) is None


def test_a_photo_without_anything_is_refused(tmp_path: Path) -> None:
    """A board that finds nothing there could not be told from a broken one."""
    photo = tmp_path / "grey.jpg"
    cv2.imwrite(str(photo), np.full((64, 64, 3), 127, np.uint8))
    with pytest.raises(SourceError, match="found nothing; give another one with --check-photo"):
        expect(MODELS / "centernet-nano-256.tflite", "tflite", photo)


def test_a_model_of_another_format_is_refused(here: Target, key: Path, tmp_path: Path) -> None:
    """With the format that the board reads."""
    with pytest.raises(ConfigError, match=r"runs \.tflite files"):
        make_bundle(here, Contents(str(MODELS / "centernet-nano-256.onnx"), only_model=True), key, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_with_an_unknown_name_is_refused(here: Target, key: Path, tmp_path: Path) -> None:
    """Before it reaches a board."""
    config = tmp_path / "camera.toml"
    config.write_text('camra = "/dev/video0"\n')
    with pytest.raises(ConfigError, match="unknown setting 'camra'"):
        make_bundle(here, Contents("centernet-nano-256", camera=config), key, tmp_path / "out")


def test_a_lock_has_all_that_the_live_page_imports() -> None:
    """Where there is Tornado; 32-bit ARM, which has no wheel of it, has no page."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    live = set(re.findall(r"^[\w-]+", config["options.extras_require"]["live"], re.M))
    assert "tornado" in live
    for name, lines in locks().items():
        known = {line.partition("==")[0].replace("_", "-") for line in lines}
        assert live <= known or "tornado" not in known, name


def test_every_target_has_a_lock_with_wheels_by_hash() -> None:
    """One line a package, its engine among them; NumPy below 2 beside tflite-runtime."""
    for target in TARGETS.values():
        assert all(line.count("--hash=sha256:") == 1 for line in target.lock), target.name
        assert any(line.startswith(f"{target.engine}==") for line in target.lock), target.name
    for name, lines in locks().items():
        if name.endswith("tflite-runtime"):
            assert not any(line.startswith("numpy==2") for line in lines), name


def test_a_combination_without_wheels_names_those_that_there_are() -> None:
    """tflite-runtime ended with Python 3.11."""
    with pytest.raises(
        ConfigError, match=r"no wheels of tflite-runtime for Python 3\.13 on aarch64; .*py313-ai-edge-litert"
    ):
        find_target("pi4", "3.13", "tflite-runtime")
    with pytest.raises(ConfigError, match="expected one of pi4, pi5"):
        find_target("pi6")


def test_a_jetson_keeps_the_opencv_of_its_system() -> None:
    """PyPI's has no GStreamer, and would hide it."""
    target = TARGETS["jetson-orin"]
    assert "opencv-python-headless" in target.left_out
    assert target.system_packages
    assert target.apt == ("python3-opencv",)
    assert any(line.startswith("opencv-python-headless==") for line in target.lock)


def test_platforms_go_from_the_newest_tag_that_runs_to_the_oldest() -> None:
    """PEP 600, and the names before it."""
    tags = platforms("aarch64", (2, 28))
    assert tags[0] == "manylinux_2_28_aarch64"
    assert tags[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert set(PACKAGES) >= {target.engine for target in TARGETS.values()}


@pytest.mark.cross
@pytest.mark.parametrize("machine", ["aarch64", "armv7l", "x86_64"])
def test_the_decoder_is_compiled_for_the_board(machine: str) -> None:
    """An ELF file of that architecture, the same each time."""
    if shutil.which(COMPILER[machine]) is None:
        pytest.skip(f"no {COMPILER[machine]}")
    content = compile_decoder(machine)
    assert int.from_bytes(content[18:20], "little") == ELF_MACHINE[machine]
    assert content == compile_decoder(machine)


def test_our_wheel_holds_the_package_and_only_the_models_of_its_engine(tmp_path: Path) -> None:
    """Linked folders are followed; what other engines read stays here."""
    with zipfile.ZipFile(own_wheel("x86_64", ".tflite", tmp_path)) as archive:
        names = archive.namelist()
    models = {name.rpartition(".")[2] for name in names if "/model_zoo/" in name}
    assert models == {"py", "json", "md", "tflite"}
    assert {"edge_centernet/runtimes/tflite.py", "edge_centernet/decoder/_decoder.abi3.so"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("runtimes")]


def test_our_wheel_without_the_c_decoder_is_for_every_machine(tmp_path: Path) -> None:
    """NumPy decodes: slower, same boxes."""
    path = own_wheel("aarch64", ".tflite", tmp_path, compiled=False)
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


def test_without_a_cross_compiler_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the way without."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingDependency, match=r"apt-get install gcc-aarch64-linux-gnu \(or --no-c"):
        compile_decoder("aarch64")


def test_a_signature_is_the_same_each_time(key: Path) -> None:
    """Ed25519 has no random part."""
    assert sign(b"content", key) == sign(b"content", key)


def test_a_missing_key_is_refused_and_the_default_one_is_made_once(
    monkeypatch: pytest.MonkeyPatch, key: Path, tmp_path: Path
) -> None:
    """Readable by its owner alone."""
    with pytest.raises(ConfigError, match="no such file; make one with ssh-keygen"):
        signing_key(tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    path, made = signing_key(None)
    assert made
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing_key(None) == (path, False)


def test_signers_may_be_a_public_key_but_not_a_private_one(key: Path, signers: Path) -> None:
    """A .pub file becomes the line that boards pin."""
    assert as_signers(key.with_suffix(".pub")) == signers.read_text() == as_signers(signers)
    with pytest.raises(ConfigError, match="expected a public ssh key"):
        as_signers(key)


def test_names_of_wheels_are_compared_as_pypi_does(tmp_path: Path) -> None:
    """And other files are refused."""
    path = tmp_path / "Backports.Strenum-1.2.8-py3-none-any.whl"
    path.touch()
    assert wheel_name(path) == normal("backports_strenum") == "backports-strenum"
    with pytest.raises(ConfigError, match="expected a wheel"):
        wheel_name(tmp_path)
