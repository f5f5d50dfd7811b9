"""Feed whatever reads other people's bytes with inputs that libFuzzer makes up, by way of atheris.

    pip install atheris                        # Linux on x86-64, CPython 3.11 or newer
    python tests/fuzz.py all --seconds 600     # each target in a process of its own
    python tests/fuzz.py coco --seconds 60
    python tests/fuzz.py coco build/fuzz/coco/crash-...        # one input again

A reader may answer, or refuse with one of the project's errors. Anything else is a finding: another
exception, more than 1 GB of memory, more than 10 s for one input. Inputs that reach new code are kept in
build/fuzz/TARGET/corpus, from which the next run goes on; findings lie beside that folder.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import atheris
import click
import cv2
import numpy as np

# Readers that are loaded when they are asked for too: libFuzzer follows only what is imported here.
with atheris.instrument_imports(include=["edge_centernet"]):
    from edge_centernet import camera_config, imageio
    from edge_centernet.data import coco, read_dataset, voc, yolo  # noqa: F401
    from edge_centernet.deploy import agent
    from edge_centernet.errors import EdgeCenterNetError
    from edge_centernet.sources import files as sources
    from edge_centernet.sources import network

ROOT = Path(__file__).resolve().parents[1]
MEMORY_MB, SECONDS = 1024, 10  # what one input may take
DECODED = 1 << 16  # pixels: larger pictures would have OpenCV's decoders fuzzed, and not our limits
SECRET = "hunter2"
MANIFEST = {
    "schema": 1,
    "kind": "full",
    "version": "0.1.0",
    "python": "3.11",
    "target": "pi4",
    "machine": "aarch64",
    "model": {"file": "model.tflite"},
    "apt": [],
    "glibc": [2, 36],
    "installed_bytes": 1000,
    "system_packages": False,
}
VOC = {
    "filename": "a.png",
    "size": {"width": 8, "height": 8, "depth": 3},
    "object": [
        {"name": "cat", "difficult": 0, "bndbox": {"xmin": 1, "ymin": 1, "xmax": 5, "ymax": 6}, "pose": "x"}
    ],
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "none"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 1, 4, 5],
            "area": 20,
            "iscrowd": 0,
            "score": 0.5,
        }
    ],
}
YAML = {"path": ".", "train": "images", "val": "images", "nc": 2, "names": ["cat", "dog"]}
YOLO = "path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n"
CONFIG = """camera = "rtsp://user:pass@192.168.1.9:554/live?channel=1#x"
threshold = 0.4
classes = ["person", "car"]
track = true
[[line]]
name = "door"
from = [0.1, 0.5]
to = [0.9, 0.5]
[[zone]]
name = "queue"
points = [[0, 0], [1, 0], [1, 1]]
queue = true
[[rule]]
kind = "queue"
where = "queue"
limit = 5
days = "mon-fri"
"""
URLS = (
    "@10.0.0.8:554/Streaming/Channels/101?a=1#b",
    "@[fe80::1%25eth0]/live.sdp",
    "@host/videostream.cgi?user=admin",
)
ODD: tuple[object, ...] = (
    None, True, False, 0, -1, 0.5, 1e308, float("nan"), float("inf"), 1 << 70, "", "cat", "1", "\u0085",
    "../../x", "a\0b", "x" * 300, [], {}, [[]], [1, 2, 3, 4], [1e300] * 4, {"id": 1}, ["cat", "cat"],
)  # fmt: skip


def picture(suffix: str) -> bytes:
    """A file of 8x8 pixels in the format with that suffix."""
    done, data = cv2.imencode(suffix, np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    assert done
    return bytes(data)


def read_picture(data: bytes) -> None:
    """An image's header, and its pixels where these are few; both ways of finding the size agree."""
    header = imageio.check_header(data, "fuzz")
    if header.width * header.height <= DECODED:
        Path("image").write_bytes(data)
        size = imageio.image_size(Path("image"))
        assert imageio.decode_image(data, "fuzz").shape == (size[1], size[0], 3)


def edited(document: object, choices: atheris.FuzzedDataProvider) -> object:
    """A copy of a JSON document with some of its values replaced by odd ones, removed or repeated.

    Bytes changed at random are hardly ever JSON, and a reader of JSON would hide behind Python's.
    """
    changed = json.loads(json.dumps(document))
    for _ in range(choices.ConsumeIntInRange(1, 4)):
        node, places = changed, []
        while isinstance(node, (dict, list)) and node:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = keys[choices.ConsumeIntInRange(0, len(keys) - 1)]
            places.append((node, key))
            node = node[key]
        if not places:
            break
        owner, key = places[choices.ConsumeIntInRange(0, len(places) - 1)]
        what = choices.ConsumeIntInRange(0, 9)
        if what == 0:
            del owner[key]
        elif what == 1:
            owner[key] = [owner[key], copy.deepcopy(owner[key])]
        elif what == 2:
            owner[key] = choices.ConsumeUnicode(20)
        elif what == 3:
            owner[key] = choices.ConsumeFloat()
        else:
            owner[key] = copy.deepcopy(ODD[choices.ConsumeIntInRange(0, len(ODD) - 1)])
    return changed


def read_coco(data: bytes) -> None:
    """A COCO file beside its image: half of the inputs as they are, half as changes to a good file."""
    if len(data) % 2:
        data = json.dumps(edited(COCO, atheris.FuzzedDataProvider(data))).encode("utf-8", "surrogatepass")
    Path("coco.json").write_bytes(data)
    read_dataset(Path("coco.json"))


def as_xml(tag: str, value: object) -> str:
    """A JSON document as XML: a list is a tag that is repeated."""
    if isinstance(value, list):
        return "".join(as_xml(tag, one) for one in value)
    inside = "".join(as_xml(key, one) for key, one in value.items()) if isinstance(value, dict) else value
    return f"<{tag}>{inside}</{tag}>"


def read_voc(data: bytes) -> None:
    """A VOC annotation beside its image: half of the inputs as they are, half as changes to a good file."""
    if len(data) % 2:
        changed = edited(VOC, atheris.FuzzedDataProvider(data))
        data = as_xml("annotation", changed).encode("utf-8", "surrogatepass")
    Path("voc/Annotations/a.xml").write_bytes(data)
    read_dataset(Path("voc"))


def read_yolo(data: bytes) -> None:
    """A data.yaml and, after a zero byte, the labels of an image; half of the inputs change a good file."""
    settings, _, labels = data.partition(b"\0")
    if len(data) % 2:  # JSON is YAML
        choices = atheris.FuzzedDataProvider(data)
        settings = json.dumps(edited(YAML, choices)).encode("utf-8", "surrogatepass")
    Path("yolo/data.yaml").write_bytes(settings)
    Path("yolo/labels/a.txt").write_bytes(labels)
    read_dataset(Path("yolo/data.yaml"))


def read_config(data: bytes) -> None:
    """A camera's settings."""
    Path("camera.toml").write_bytes(data)
    camera_config.read_config(Path("camera.toml"))


def read_url(data: bytes) -> None:
    """The name that may be shown of a URL with a password in it does not have that password."""
    text = data.decode("utf-8", "surrogateescape")
    for url in (
        f"rtsp://admin:{SECRET}{text}",
        f"http://h{text}?pwd={SECRET}",
        f"http://h/?pwd={SECRET}{text}",
        text,
    ):
        shown = sources.public_name(url)
        assert SECRET not in shown or SECRET in text, shown
        sources.is_live(url)
        if sources.is_url(url):
            with suppress(EdgeCenterNetError):
                network.check_url(url)


def read_stream(data: bytes) -> None:
    """A camera's Motion JPEG, in pieces as they come from the network: pictures, or nothing."""
    cutter = network.JpegCutter()
    pieces = atheris.FuzzedDataProvider(data[-16:])
    at = 0
    while at < len(data):
        size = pieces.ConsumeIntInRange(1, 4096)
        cutter.feed(data[at : at + size])
        at += size
        while (found := cutter.take()) is not None:
            assert found.startswith(b"\xff\xd8"), found[:8]


def stream() -> bytes:
    """Two parts of a stream as cameras send it."""
    head = b"--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    return b"".join(head % len(jpeg) + jpeg + b"\r\n" for jpeg in [picture(".jpg")] * 2)


def read_bundle(data: bytes) -> None:
    """A bundle whose signature is taken for good, so that what comes after it is reached.

    A third of the inputs are the tar as it is, a third a tar whose checksums are put right, and a third a
    manifest in a good tar: a changed byte would else never get past the first header, or past the hash.
    """
    if len(data) % 3 == 1:
        data = with_checksums(data)
    elif len(data) % 3 == 2:
        changed = edited(MANIFEST, atheris.FuzzedDataProvider(data))
        data = bundle_with(json.dumps(changed).encode("utf-8", "surrogatepass"))
    Path("bundle.tar").write_bytes(data)
    agent.verify(Path("bundle.tar"), Path("signers"), None)


def bundle_with(manifest: bytes) -> bytes:
    """A whole bundle of one file."""
    sums = f"{hashlib.sha256(manifest).hexdigest()}  {agent.MANIFEST}\n".encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in ((agent.SUMS, sums), (agent.SIGNATURE, b"x"), (agent.MANIFEST, manifest)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def with_checksums(tar: bytes) -> bytes:
    """The tar with the checksum of every header put right, as far as its sizes lead from one to the next."""
    data, at = bytearray(tar), 0
    while at + 512 <= len(data) and any(data[at : at + 512]):
        header = data[at : at + 512]
        header[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
        digits = bytes(header[124:136]).rstrip(b" \0")
        size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
        at += 512 + size + -size % 512
    return bytes(data)


# target: what reads an input, and inputs to begin with
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "images": (read_picture, lambda: map(picture, (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"))),
    "coco": (read_coco, lambda: iter([json.dumps(COCO).encode()])),
    "voc": (read_voc, lambda: (as_xml("annotation", VOC).encode(code) for code in ("utf-8", "utf-16"))),
    "yolo": (read_yolo, lambda: iter([YOLO.encode() + b"\0" + b"0 .5 .5 .2 .2\n1 .1 .1 .2 .1 .2 .2\n"])),
    "config": (read_config, lambda: iter([CONFIG.encode()])),
    "mjpeg": (read_stream, lambda: iter([stream()])),
    "urls": (read_url, lambda: (url.encode() for url in URLS)),
    "bundle": (read_bundle, lambda: iter([bundle_with(json.dumps(MANIFEST).encode())])),
}


def fuzz(target: str, seconds: int, again: Path | None) -> None:
    """Run one target in this process, which libFuzzer ends."""
    read, seeds = TARGETS[target]
    out = ROOT / "build/fuzz" / target
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    # In memory where there is such a folder: a target writes its input to a file each time.
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None))
    os.chdir(folder)
    for image in (
        "a.png",
        "voc/JPEGImages/a.png",
        "voc/Annotations/a.xml",
        "yolo/images/a.png",
        "yolo/labels/a.txt",
    ):
        Path(image).parent.mkdir(parents=True, exist_ok=True)
        Path(image).write_bytes(picture(".png") if image.endswith(".png") else b"")
    agent.check_signature = lambda *_: None
    refusals = (EdgeCenterNetError, agent.Refused)  # the agent stands alone, so its error is one of its own

    def once(data: bytes) -> None:
        with suppress(refusals):
            read(data)

    limits = [
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={SECONDS}",
        f"-artifact_prefix={out}/",
        "-print_final_stats=1",
    ]
    what = [str(again)] if again else [f"-max_total_time={seconds}", str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *what], once)
    try:
        atheris.Fuzz()
    finally:
        os.chdir(ROOT)
        shutil.rmtree(folder)


@click.command()
@click.argument("target", type=click.Choice([*TARGETS, "all"]))
@click.argument("again", type=click.Path(path_type=Path, exists=True, resolve_path=True), required=False)
@click.option("--seconds", default=60, show_default=True, help="How long each target runs.")
def main(target: str, again: Path | None, seconds: int) -> None:
    """Fuzz one TARGET or all of them; exit status 1 where something was found."""
    if target != "all":
        fuzz(target, seconds, again)
        return
    command = [sys.executable, __file__]
    found = [
        name
        for name in TARGETS
        if subprocess.run([*command, name, "--seconds", str(seconds)], check=False).returncode
    ]
    if found:
        raise click.ClickException(f"findings in {', '.join(found)}; see build/fuzz")


if __name__ == "__main__":
    main()
