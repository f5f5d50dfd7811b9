"""onnxruntime-web, in a real browser: the bytes of ONNX Runtime in Python, and the page of docs/browser.md.

Both need the package from npm: `npm install --prefix FOLDER onnxruntime-web`, and
EDGE_CENTERNET_ONNXRUNTIME_WEB=FOLDER/node_modules/onnxruntime-web.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import NEEDS, Browser, find_programs, soon
from doc_pages import ROOT

from edge_centernet import Detector, read_image, sample_photo
from edge_centernet.artifact import read_manifest
from edge_centernet.converters import frigate
from edge_centernet.heads import Heads
from edge_centernet.model_zoo import find_model
from edge_centernet.preprocess import prepare
from edge_centernet.qdq import load
from edge_centernet.runtimes import open_runtime

pytestmark = pytest.mark.slow
VARIABLE, MODEL = "EDGE_CENTERNET_ONNXRUNTIME_WEB", "centernet-nano-256"
HEADS_PAGE = """
<!doctype html>
<script type="module">
  import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
  const pixels = new Uint8Array(await (await fetch("input.bin")).arrayBuffer());
  const session = await ort.InferenceSession.create("model.onnx");
  const found = await session.run({ image: new ort.Tensor("uint8", pixels, [1, 3, SIDE, SIDE]) });
  window.found = {};
  for (const role of ["heat", "size", "offset"]) { window.found[role] = Array.from(found[role].data); }
</script>
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with onnxruntime-web, and the address at which it is served."""
    package = os.environ.get(VARIABLE)
    if not package:
        pytest.skip(f"set {VARIABLE} to node_modules/onnxruntime-web of 'npm install onnxruntime-web'")
    assert (Path(package) / "dist" / "ort.wasm.min.mjs").is_file(), package
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "onnxruntime-web").symlink_to(Path(package).resolve())
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Chromium."""
    programs = find_programs()
    if programs is None:
        pytest.skip(NEEDS)
    window = Browser(*programs)
    yield window
    window.close()


@pytest.mark.parametrize("name", [MODEL, "centernet-mbv2-320"])
def test_webassembly_gives_the_bytes_of_python(site: tuple[Path, str], browser: Browser, name: str) -> None:
    """All three heads of the shipped ONNX file, for the sample photo: every byte."""
    folder, address = site
    path = find_model(name, ".onnx")
    manifest = read_manifest(path)
    pixels = prepare(read_image(sample_photo()), manifest)[0]
    runtime = open_runtime(path, "onnxruntime")
    expected = Heads(*(np.array(head) for head in runtime.run(pixels)))
    runtime.close()

    shutil.copy(path, folder / "model.onnx")
    (folder / "input.bin").write_bytes(pixels.tobytes())
    (folder / "index.html").write_text(HEADS_PAGE.replace("SIDE", str(manifest.model.width)))
    browser.open(address)
    found = soon(lambda: browser.run("return window.found"), seconds=120)
    for role, head in expected._asdict().items():
        assert np.array_equal(np.array(found[role], np.int8).reshape(head.shape), head), role
    assert len(np.unique(expected.heat)) > 50


def test_the_page_of_the_docs_finds_person_and_cat(site: tuple[Path, str], browser: Browser) -> None:
    """The HTML in docs/browser.md, with the files that its commands make: boxes near those of `detect`."""
    folder, address = site
    page = re.search(r"```html\n(.*?)```", (ROOT / "docs" / "browser.md").read_text(encoding="utf-8"), re.S)
    assert page
    (folder / "index.html").write_text(page[1])
    frigate.export(load(find_model(MODEL, ".onnx")), MODEL, folder, pictures=[read_image(sample_photo())])
    shutil.copy(sample_photo(), folder / "photo.jpg")
    browser.open(address)
    lines = soon(lambda: browser.text("#found"), seconds=120).splitlines()
    found = {line.split()[0]: np.array(line.split()[-1].split(","), float) for line in lines}
    with Detector(MODEL, runtime="onnxruntime") as detector:
        expected = {one.name: one.xyxy for one in detector.detect(read_image(sample_photo()))}
    assert set(found) == set(expected) == {"person", "cat"}
    for name, box in expected.items():
        np.testing.assert_allclose(found[name], box, atol=40, err_msg=name)  # of 1,280 pixels
