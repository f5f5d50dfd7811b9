"""What contributors are told and asked for: forms that GitHub can read, commands that exist, hooks that run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from edge_centernet.cli import cli

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / ".github/pull_request_template.md", *FORMS]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def form(path: Path) -> dict[str, Any]:
    """An issue form."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def test_there_is_a_form_for_bugs_boards_and_accuracy() -> None:
    """Three forms."""
    assert [path.stem for path in FORMS] == ["accuracy", "board", "bug"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_needs(path: Path) -> None:
    """A name, a description, and fields with ids of their own and labels; choices have options."""
    content = form(path)
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in content["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", one) for one in ids)
    assert all(field["attributes"]["label"] for field in fields)
    assert all(field["attributes"]["options"] for field in fields if field["type"] == "dropdown")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_each_form_asks_for_what_doctor_says(path: Path) -> None:
    """And insists on it."""
    fields = [field for field in form(path)["body"] if "doctor --json" in str(field.get("attributes"))]
    assert [field["validations"]["required"] for field in fields if "id" in field] == [True]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_options_that_are_named_exist(path: Path) -> None:
    """`edge-centernet COMMAND --option` of every page, and each script."""
    text = path.read_text(encoding="utf-8")
    context = click.Context(cli)
    for name, rest in re.findall(r"edge-centernet (\w[\w-]*)((?: +[^\s`&|,]+)*)", text):
        command = cli.get_command(context, name)
        if command is None:
            assert name in ("onto", "got"), name  # prose
            continue
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known | {"--help"}, name
    scripts = set(re.findall(r"\bscripts/[\w/.]*\w", text))
    assert [name for name in sorted(scripts) if not (ROOT / name).is_file()] == []


def test_contributing_tells_the_markers_that_there_are() -> None:
    """The table has a row for each marker of setup.cfg."""
    markers = re.findall(r"^    (\w+): ", (ROOT / "setup.cfg").read_text(encoding="utf-8").split("markers =")[1], re.M)
    assert markers
    assert [name for name in markers if f"| `{name}` |" not in CONTRIBUTING] == []


def test_links_lead_to_files() -> None:
    """Folders and files that CONTRIBUTING names in backticks are there."""
    named = re.findall(r"`((?:docs|tests|scripts|\.ci)/[\w/.]+)`", CONTRIBUTING)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_hooks_use_the_ruff_that_is_installed_here() -> None:
    """Two versions would format the same file in two ways."""
    installed = subprocess.run([sys.executable, "-m", "ruff", "--version"], capture_output=True, text=True, check=True)
    pinned = set(re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")))
    ours = tuple(map(int, installed.stdout.split()[1].split(".")))
    assert len(pinned) == 1
    assert tuple(map(int, pinned.pop().split(".")))[:2] == ours[:2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_hooks_pass(tmp_path: Path) -> None:
    """`pre-commit run --all-files` on a commit of the sources as they are; and it refuses what it should."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs a git checkout: what is committed is what hooks look at")
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name, follow_symlinks=False)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
    }
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)

    def hooks(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pre_commit", "run", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = hooks("--all-files")
    if "An unexpected error has occurred" in done.stdout and "No matching distribution" in done.stdout:
        pytest.skip("needs PyPI, for the tools that the hooks bring")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 8

    (tmp_path / "scripts/bad.py").write_text("import os\nx=1\n")
    (tmp_path / "large.bin").write_bytes(os.urandom(2_000_000))
    subprocess.run([*git, "add", "scripts/bad.py", "large.bin"], cwd=tmp_path, check=True)
    refused = hooks()
    assert refused.returncode == 1
    assert re.search(r"^ruff\.+Failed", refused.stdout, re.M)
    assert re.search(r"^no large files\.+Failed", refused.stdout, re.M)
