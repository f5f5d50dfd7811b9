"""The documentation site: it builds without a warning, its links lead somewhere, it shows the code's help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

from edge_centernet.cli import cli

ROOT = Path(__file__).resolve().parent.parent
# Attributes by which a browser fetches something without a click.
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
    if not (ROOT / "docs/benchmarks").is_dir():
        pytest.skip("pages of figures are not in the source distribution")
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
    """Each page of docs/ became one: none is left out."""
    docs = ROOT / "docs"
    sources = [path.relative_to(docs) for path in docs.rglob("*.md")]
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
            if not target.exists() or (
                url.fragment and known is not None and unquote(url.fragment) not in known
            ):
                dead.append((path.name, link))
    assert dead == []


@pytest.mark.slow
def test_no_page_fetches_from_another_host(pages: dict[Path, Page], site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own: it works offline."""
    foreign = {link for page in pages.values() for link in page.fetched if urlsplit(link).netloc}
    styles = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    foreign |= set(re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", styles))
    assert foreign == set()


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
    wanted = {
        "detector.Detector.detect",
        "detections.Detections",
        "preprocess.Letterbox.to_image",
        "runtimes.open_runtime",
        "manifest.Manifest",
        "sources.files.open_source",
        "tracking.tracker.Tracker.update",
        "errors.SourceError",
    }
    anchors = pages[site / "reference/python.html"].anchors
    assert {f"edge_centernet.{name}" for name in wanted} - anchors == set()


@pytest.mark.slow
def test_reference_has_every_option_of_training(pages: dict[Path, Page], site: Path) -> None:
    """In its tables, made from the dataclass."""
    from edge_centernet.train.config import TrainConfig

    text = " ".join((site / "reference/commands.html").read_text(encoding="utf-8").split())
    missing = [option.name for option in TrainConfig.describe() if f">{option.name}</span>" not in text]
    assert missing == []
