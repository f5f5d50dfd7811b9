"""The documentation site: it builds without a warning, its links lead somewhere, it shows what code and records say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import cv2
import matplotlib.image
import numpy as np
import pytest
from support import load_script

from edge_centernet.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/pictures"
PICTURE_BYTES_MAX = 300_000
# Attributes by which a browser fetches something without being asked; a link in the text is fetched by a click only.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """The links, anchors, what is fetched, and the text of one page."""

    def __init__(self, path: Path) -> None:
        """Read the file."""
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in FETCHED and FETCHED[tag] in values:
            self.fetched.append(values[FETCHED[tag]])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by its one command, in which a warning is an error."""
    out = tmp_path_factory.mktemp("docs") / "site"
    # The command says `python`: that of the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [ROOT / "scripts/build_docs", out]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_every_markdown_page_is_on_the_site(pages: dict[Path, Page], site: Path) -> None:
    """Each page of docs/ became one: none is left out but the parts of the model cards."""
    docs = ROOT / "docs"
    parts = set(docs.glob("benchmarks/*/limits.md"))
    sources = [path.relative_to(docs) for path in docs.rglob("*.md") if path not in parts]
    assert [source for source in sources if (site / source.with_suffix(".html")) not in pages] == []


@pytest.mark.slow
def test_links_lead_to_pages_and_anchors(pages: dict[Path, Page]) -> None:
    """Each link inside the site leads to a file that is there, and each anchor is one of that page."""
    dead = []
    for path, page in pages.items():
        for link in {*page.links, *page.fetched}:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            known = pages[target].anchors if target in pages else None
            if not target.exists() or (url.fragment and known is not None and unquote(url.fragment) not in known):
                dead.append((path.name, link))
    assert dead == []


@pytest.mark.slow
def test_no_page_fetches_from_another_host(pages: dict[Path, Page], site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own: it works offline and tells nobody who reads it."""
    foreign = {link for page in pages.values() for link in page.fetched if urlsplit(link).netloc}
    styles = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    foreign |= set(re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", styles))
    assert foreign == set()


@pytest.mark.slow
def test_search_knows_the_words_of_the_guides(site: Path) -> None:
    """The index that the search page loads has words of the guides, and findings of doctor as titles."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert (site / "search.html").is_file()
    for word in ("letterbox", "throttl", "tflite-slow-kernels"):
        assert f'"{word}"' in index, word


@pytest.mark.slow
def test_reference_has_the_help_of_every_command(pages: dict[Path, Page], site: Path) -> None:
    """Each command and subcommand stands in the reference with its usage and its options."""
    text = pages[site / "reference/commands.html"].text

    def check(command: click.Command, path: str) -> None:
        assert f"Usage: {path} " in text
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        assert [one.opts for one in options if one.opts[0] not in text] == [], path
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                below = command.get_command(click.Context(command), name)
                assert below
                check(below, f"{path} {name}")

    check(cli, "edge-centernet")


@pytest.mark.slow
def test_reference_has_the_public_classes(pages: dict[Path, Page], site: Path) -> None:
    """What programs that embed the detector use has an anchor of its own in the reference."""
    wanted = {"detector.Detector.detect", "detections.Detections", "image.Letterbox.to_image", "runtimes.open_runtime"}
    wanted |= {"manifest.Manifest", "sources.open_source", "live.tracking.Tracker.update", "errors.SourceError"}
    anchors = pages[site / "reference/python.html"].anchors
    assert {f"edge_centernet.{name}" for name in wanted} - anchors == set()


@pytest.mark.slow
def test_benchmark_pages_show_the_records(pages: dict[Path, Page], site: Path) -> None:
    """Milliseconds of a record stand on its page as in the record, to four digits, with the script behind them."""
    record = json.loads((ROOT / "docs/benchmarks/speed-x86_64.json").read_text(encoding="utf-8"))
    text = pages[site / "benchmarks/speed.html"].text
    shown = [f"{model['ms']:.4g}" for engine in record["engines"].values() for model in engine.values()]
    assert [value for value in shown if value not in text] == []
    assert "scripts/compare_speed.py" in text
    assert record["versions"]["openvino"] in text


@pytest.mark.slow
def test_every_record_is_on_the_site(site: Path, pages: dict[Path, Page]) -> None:
    """Each JSON record can be had as a whole from one of the pages, or has a page of its own, made by its script."""
    kept = [path for path in (ROOT / "docs/benchmarks").rglob("*.json") if not path.with_suffix(".md").exists()]
    given = {Path(link).name for page in pages.values() for link in page.links if link.endswith(".json")}
    assert [path.name for path in kept if path.name not in given] == []


def test_tables_are_made_of_nested_records() -> None:
    """Plain values first, then a table for each object or list in the record; keys that lead to a row are its name."""
    tables = list(
        load_script("site_pages").tables(
            {"threads": 1, "engines": {"tflite": {"a": {"ms": {"p50": 2.0}, "fps": 1.23456}}}}
        )
    )
    assert tables[0].splitlines()[-1] == "| threads | 1 |"
    assert tables[1].splitlines()[-3:] == ["|  | ms p50 | fps |", "| --- | ---: | ---: |", "| tflite, a | 2 | 1.235 |"]


def test_picture_of_the_detections_is_what_the_model_finds() -> None:
    """Drawn again, README's picture is the one that is kept, but for what JPEG and other versions of OpenCV change."""
    method = load_script("draw_method")
    drawn = method.draw_detections(method.look())
    kept = cv2.imread(str(PICTURES / "detections.jpg"))
    assert kept is not None
    assert kept.shape == drawn.shape
    assert np.abs(kept.astype(np.int16) - drawn).mean() < 4


def test_picture_of_the_peaks_is_what_the_model_finds(tmp_path: Path) -> None:
    """Drawn again, the numbers of the cells are the kept ones; fonts of another matplotlib may differ a little."""
    method = load_script("draw_method")
    method.save(method.draw_peaks(method.look()), tmp_path / "peaks.png")
    drawn, kept = (matplotlib.image.imread(path)[..., :3] for path in (tmp_path / "peaks.png", PICTURES / "peaks.png"))
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.02


def test_pictures_stay_small() -> None:
    """Each committed picture is below 300 kB, and a script or the command on its page draws it: none is left over."""
    method = load_script("draw_method")
    assert {path.name for path in PICTURES.iterdir()} == {"detections.jpg", "layers.png", *method.FIGURES}
    assert "--picture layers.png" in (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    assert max(path.stat().st_size for path in PICTURES.iterdir()) < PICTURE_BYTES_MAX


def test_each_finding_of_doctor_is_reached_from_a_symptom() -> None:
    """The page of symptoms leads to every heading that doctor prints, but to the two that need nothing."""
    headings = re.findall(r"^### (\S+)$", (ROOT / "docs/doctor.md").read_text(encoding="utf-8"), re.M)
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    reached = set(re.findall(r"\(doctor\.md#([\w-]+)\)", page)) - {"does-it-really-compute-in-int8"}
    assert reached == set(headings) - {"ready", "not-checked"}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.slow
def test_start_page_shows_the_picture_in_a_browser(site: Path) -> None:
    """A browser without a network lays out the start page: the title, the picture and the navigation are there."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    url = (site / "index.html").as_uri()
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    assert "<h1>edge-centernet" in done.stdout
    assert "detections.jpg" in done.stdout
    assert 'href="method.html"' in done.stdout
