"""The compile cache: the same results, never those of another file, and no harm from damaged content."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_centernet import selftest
from edge_centernet.model_zoo import find_model
from edge_centernet.runtimes import compile_cache, open_runtime

pytest.importorskip("openvino")
NAME = "centernet-nano-256"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the nano model, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = find_model(NAME, ".xml")
    for suffix in (".xml", ".bin"):
        shutil.copy(source.with_suffix(suffix), tmp_path / f"{NAME}{suffix}")
    return tmp_path / f"{NAME}.xml"


def blobs(model: Path) -> list[Path]:
    """What is kept of OpenVINO."""
    return sorted((model.parent / "cache/edge-centernet/openvino").glob("*"))


def answers(model: Path, threads: int | None = 1) -> list[bytes]:
    """The heads' bytes for the question of the self-check, and the kernels that computed them."""
    runtime = open_runtime(model, "openvino", threads)
    heads = runtime.run(selftest.test_input(runtime.manifest))
    found = [np.ascontiguousarray(head).tobytes() for head in heads]
    found.append(repr(sorted(runtime.executed_precisions().items())).encode())
    runtime.close()
    return found


def test_the_kept_network_gives_the_same_bits(model: Path) -> None:
    """By the same int8 kernels; one file is kept for one thread, and one for two."""
    first = answers(model)
    assert len(blobs(model)) == 1
    assert answers(model) == first
    assert len(blobs(model)) == 1
    assert b"I8" in first[-1]
    answers(model, 2)
    assert len(blobs(model)) == 2


def test_the_second_start_does_not_compile(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not ask OpenVINO to."""
    import openvino

    first = answers(model)
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: pytest.fail("compiled again"))
    assert answers(model) == first


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:5000] + b"\x55" + b[5001:], lambda b: b""])
def test_what_was_damaged_is_made_anew(model: Path, change: object) -> None:
    """Cut off, changed in the middle, empty."""
    assert callable(change)
    first = answers(model)
    (blob,) = blobs(model)
    blob.write_bytes(change(blob.read_bytes()))
    assert compile_cache.load(blob) is None
    assert answers(model) == first
    assert blobs(model) == [blob]
    assert (
        len(compile_cache.load(blob) or b"") > 500_000
    )  # whole again; OpenVINO's files differ by a few bytes from run to run


def test_other_weights_of_the_same_name_size_and_time_are_another_network(model: Path) -> None:
    """As after an update from an archive, which gives files a fixed time."""
    text, count = re.subn(r"(content_sha256&quot;: &quot;)[0-9a-f]{64}", r"\1", model.read_text())
    assert count == 1  # the seal, which would tell before any engine runs
    model.write_text(text)
    first = answers(model)
    weights = model.with_suffix(".bin")
    times = weights.stat()
    data = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    data[200_000:210_000] ^= 0x3C
    weights.write_bytes(data.tobytes())
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.stat().st_size == times.st_size
    assert answers(model)[:3] != first[:3]


def test_a_cache_that_cannot_be_written_is_done_without(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is where the folder should be."""
    (model.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "file"))
    assert len(answers(model)) == 4


@pytest.mark.parametrize("place", ["", "openvino", "file"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_what_others_may_have_written_is_not_trusted(model: Path, place: str, mode: int) -> None:
    """The file, its folder or the one above: it is compiled anew, and all are closed to others then."""
    first = answers(model)
    (blob,) = blobs(model)
    cache = model.parent / "cache/edge-centernet"
    spoilt = blob if place == "file" else cache / place
    spoilt.chmod(mode)
    assert compile_cache.load(blob) is None
    assert answers(model) == first
    assert compile_cache.load(blob) is not None
    assert {path.stat().st_mode & 0o077 for path in (cache, blob.parent, blob)} == {0}


def test_what_belongs_to_another_user_is_not_trusted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither read nor written to; root's is read."""
    answers(model)
    (blob,) = blobs(model)
    owner = blob.stat().st_uid
    content = blob.read_bytes()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert (compile_cache.load(blob) is None) == (owner != 0)
    compile_cache.store(blob, b"mine")
    assert blob.read_bytes() == content


def test_the_last_eight_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used counts, not written; other files are left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "nowhere"))
    (tmp_path / "note.txt").write_text("mine")
    for number in range(8):
        compile_cache.store(tmp_path / f"{number}.blob", bytes([number]))
        os.utime(tmp_path / f"{number}.blob", (number, number))
    assert compile_cache.load(tmp_path / "0.blob") == b"\x00"
    compile_cache.store(tmp_path / "8.blob", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["note.txt", *(f"{number}.blob" for number in (0, 2, 3, 4, 5, 6, 7, 8))]
    )
