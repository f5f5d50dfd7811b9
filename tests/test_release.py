"""scripts/release.py refuses what must not be released and gives the same bytes twice; its wheel detects."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import load_script

import edge_centernet
from edge_centernet.deploy.signing import signers_line

ROOT = Path(__file__).resolve().parents[1]
VERSION = edge_centernet.__version__
SCRATCH = shutil.ignore_patterns(
    "__pycache__", "*.so", "*.egg-info", ".*_cache", ".hypothesis", "runs", "build", "dist"
)


release = load_script("release")


def git(folder: Path, *arguments: str) -> None:
    """Git with a user and a time of its own, whatever the machine has."""
    who = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    ]
    environment = {
        **os.environ,
        "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
        "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
    }
    subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, env=environment
    )


def commit_all(folder: Path) -> None:
    """Everything in `folder` as the first commit of a repository."""
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "all")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with what is looked at before anything is built, as release.py sees it."""
    folder = tmp_path / "repository"
    (folder / "edge_centernet").mkdir(parents=True)
    (folder / "edge_centernet/__init__.py").write_text('"""Package."""\n\n__version__ = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\n\nNew.\n\n## 1.2.2\n")
    commit_all(folder)
    monkeypatch.setattr(release, "ROOT", folder)
    return folder


def run(*arguments: str) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    result = CliRunner().invoke(release.main, arguments)
    return result.exit_code, result.output


def test_a_dry_run_tells_what_would_be_released_and_writes_nothing(small: Path) -> None:
    """Version, commit, folder."""
    code, told = run("--dry-run")
    assert code == 0, told
    assert told.startswith("edge-centernet 1.2.3, commit ")
    assert str(small / "dist/1.2.3") in told
    assert sorted(path.name for path in small.iterdir()) == [".git", "CHANGELOG.md", "edge_centernet"]


def test_a_changed_tree_is_refused(small: Path) -> None:
    """Also by a file that git does not know."""
    (small / "new.txt").write_text("new")
    code, told = run("--dry-run")
    assert code == 2
    assert "expected a tree without changes, got 1, the first is '?? new.txt'" in told


def test_a_changelog_without_the_version_is_refused(small: Path) -> None:
    """Its newest section must be this version's."""
    (small / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.2\n")
    git(small, "commit", "-q", "-a", "-m", "old")
    code, told = run("--dry-run")
    assert code == 2
    assert "CHANGELOG.md: expected the newest section to be '## 1.2.3', got 1.2.2" in told


def test_a_version_with_a_tag_at_another_commit_is_refused(small: Path) -> None:
    """It was released already."""
    git(small, "tag", "-a", "v1.2.3", "-m", "1.2.3")
    git(small, "commit", "-q", "--allow-empty", "-m", "later")
    code, told = run("--dry-run")
    assert code == 2
    assert "expected no tag v1.2.3 but at the commit that is checked out, found it at" in told


def test_a_version_with_its_tag_here_may_be_released(small: Path) -> None:
    """The workflow is started by the tag, so the tag is there first."""
    git(small, "tag", "-a", "v1.2.3", "-m", "1.2.3")
    code, told = run("--dry-run")
    assert code == 0
    assert "edge-centernet 1.2.3" in told


def test_a_folder_that_is_there_is_refused(small: Path) -> None:
    """And not touched."""
    (small.parent / "out").mkdir()
    code, told = run("--dry-run", "--out", str(small.parent / "out"))
    assert code == 2
    assert "expected no such folder, found one" in told


def test_a_key_that_is_not_there_is_refused_before_anything_is_built(small: Path) -> None:
    """With the command that makes one."""
    code, told = run("--dry-run", "--sign", str(small.parent / "none"))
    assert code == 2
    assert "make one with ssh-keygen" in told


def test_a_key_that_nobody_can_look_up_is_refused_with_the_line_to_publish(small: Path) -> None:
    """SECURITY.md must have it, for this purpose and no other; then it is taken."""
    key = small.parent / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    line = f'edge-centernet namespaces="edge-centernet-release" {public}'
    for policy in (None, "# Security\n", line.replace("-release", "-bundle"), line[:-1]):
        if policy is not None:
            (small / "SECURITY.md").write_text(policy)
            commit_all(small)
        code, told = run("--dry-run", "--sign", str(key))
        assert code == 2
        assert told.endswith(f"commit this line in its block of release keys: {line}\n")
    (small / "SECURITY.md").write_text(f"# Security\n\n{line}\n")
    commit_all(small)
    assert run("--dry-run", "--sign", str(key))[0] == 0


def test_a_known_hole_stops_a_release_unless_it_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In what is installed and in the oldest versions allowed; without advisories the release says so."""
    fresh, tools = tmp_path / "fresh", tmp_path / "tools"
    report = {
        "dependencies": [
            {"name": "click", "version": "8.1", "vulns": [{"id": "PYSEC-1"}]},
            {"name": "edge-centernet", "skip_reason": "not found"},
        ]
    }
    (tmp_path / "report").write_text(json.dumps(report))
    fresh.write_text("#!/bin/sh\nprintf '%s\\n' /site 'click>=8.1' 'onnx>=1.22; extra == \"convert\"'\n")
    tools.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/calls\ncat {tmp_path}/report\nexit 1\n")
    for program in (fresh, tools):
        program.chmod(0o755)
    with pytest.raises(release.ReleaseError, match=r"got click 8\.1: PYSEC-1; raise the bound in setup"):
        release.audit(fresh, tools, tmp_path, ["PYSEC-2"])
    installed, bounds = (tmp_path / "calls").read_text().splitlines()
    assert installed.endswith(" --path /site --ignore-vuln PYSEC-2")
    assert f" --requirement {tmp_path}/oldest.txt --no-deps " in bounds
    assert (tmp_path / "oldest.txt").read_text() == "click==8.1\nonnx==1.22\n"
    for answer in ('{"dependencies": [{"name": "click", "skip_reason": "not found"}]}', ""):
        (tmp_path / "report").write_text(answer)
        release.audit(fresh, tools, tmp_path, [])
        assert capsys.readouterr().err.count("NOT AUDITED for known holes") == 2


def test_the_oldest_versions_are_those_that_setup_cfg_allows() -> None:
    """By name; without what only developers install, and of two for different Pythons the last."""
    requires = [
        "click>=8.1",
        'tornado>=6.5.10; python_version < "3.11" and extra == "live"',
        'tornado>=6.6; python_version >= "3.11" and extra == "live"',
        "numpy<2; platform_machine == 'armv7l' and extra == 'tflite'",
        "edge-centernet[openvino]; extra == 'label'",
        'pillow>=13; extra == "dev"',
        "sphinx>=8.1; extra == 'docs'",
    ]
    assert release.oldest(requires) == {"click": "8.1", "tornado": "6.6"}


def test_every_tool_of_a_release_is_pinned_by_its_hash() -> None:
    """What pip installs for it, and what its workflow runs."""
    text = (ROOT / "scripts/release-requirements.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert {"build", "cyclonedx-bom", "pip-audit", "setuptools", "twine", "wheel"} <= {
        line.partition("==")[0] for line in lines
    }
    assert [line for line in lines if "==" not in line or "--hash=sha256:" not in line] == []
    for name in ("scripts/release.py", "scripts/build_wheels.sh"):
        assert "--require-hashes" in (ROOT / name).read_text()
    actions = re.findall(r"uses: (\S+)", (ROOT / ".github/workflows/release.yml").read_text())
    assert len(actions) == 7
    assert [one for one in actions if not re.fullmatch(r"\S+@[0-9a-f]{40}", one)] == []


def test_a_step_that_fails_leaves_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder nor the one it was built in; exit code 1."""

    def broken(*_: object) -> Path:
        raise release.ReleaseError("the tools cannot be had")

    monkeypatch.setattr(release, "_tools", broken)
    code, told = run("--out", str(small.parent / "dist/out"))
    assert code == 1
    assert "Error: the tools cannot be had" in told
    assert list((small.parent / "dist").iterdir()) == []


def pack(path: Path, names: list[str], mtime: int) -> None:
    """A .tar.gz with these files in this order; those that end in .sh may be run."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.uname = len(name), mtime, mtime % 1000, "anna"
            member.mode = 0o775 if name.endswith(".sh") else 0o664
            tar.addfile(member, io.BytesIO(name.encode()))
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=mtime))


def test_equal_files_give_an_equal_archive(tmp_path: Path) -> None:
    """Whoever packed them when and in which order; contents and permission to run stay."""
    pack(tmp_path / "a.tar.gz", ["x/b.sh", "x/a.txt"], 1_000_000)
    pack(tmp_path / "b.tar.gz", ["x/a.txt", "x/b.sh"], 2_000_123)
    for name in ("a.tar.gz", "b.tar.gz"):
        release.even(tmp_path / name, 1_700_000_000)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert [(one.name, one.mode, one.mtime, one.uname) for one in tar] == [
            ("x/a.txt", 0o644, 1_700_000_000, ""),
            ("x/b.sh", 0o755, 1_700_000_000, ""),
        ]
        script = tar.extractfile("x/b.sh")
        assert script is not None
        assert script.read() == b"x/b.sh"


# ---- a whole release, twice
# ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as they are now, as a commit of their own."""
    for tool in ("git", "gcc", "unzip", "ssh-keygen"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    folder = tmp_path_factory.mktemp("release") / "checkout"
    folder.mkdir()
    files = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
    for name in (*files, "CONTRIBUTING.md", "SECURITY.md", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in (
        "edge_centernet",
        "calibration",
        "converters",
        "runtimes",
        "docs",
        "scripts",
        "tests",
        ".ci",
        ".github",
    ):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=SCRATCH)
    changes = folder / "CHANGELOG.md"  # as a release has it: what is to come has become the version's own
    changes.write_text(changes.read_text().replace("## Unreleased", f"## {edge_centernet.__version__}", 1))
    key = folder.parent / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with (folder / "SECURITY.md").open("a") as policy:
        policy.write(signers_line(key, release.NAMESPACE))
    commit_all(folder)
    return folder


@pytest.fixture(scope="module")
def twice(checkout: Path) -> tuple[Path, Path]:
    """Two releases of the same commit, signed with one key."""
    key = checkout.parent / "key"
    asked = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(checkout.parent / "ask"),
        "click",
    ]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("needs PyPI, for the tools that build and for the engines that the wheel is tried with")
    folders = checkout.parent / "one", checkout.parent / "two"
    for out in folders:
        command = [
            sys.executable,
            "scripts/release.py",
            "--only",
            "x86_64",
            "--sign",
            str(key),
            "--out",
            str(out),
        ]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Found by the installed wheel: cat, person" in done.stderr
        assert f"git tag -a v{VERSION}" in done.stdout
        assert "twine upload" in done.stdout
    return folders


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_releases_of_a_commit_are_the_same_to_the_byte(twice: tuple[Path, Path]) -> None:
    """Sources, wheel, SBOM, checksums and signature; and nothing else is left."""
    one, two = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()} for out in twice
    )
    assert one == two
    wheel = f"edge_centernet-{VERSION}-cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    sources, bill = f"edge_centernet-{VERSION}.tar.gz", f"edge_centernet-{VERSION}.cdx.json"
    assert sorted(one) == sorted([wheel, sources, bill, "SHA256SUMS", "SHA256SUMS.sig"])
    assert not list(twice[0].parent.glob(".release-*"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_release_is_of_the_commit(twice: tuple[Path, Path]) -> None:
    """The wheel has the compiled decoder and the commit's time; the sources hold what a build needs."""
    with zipfile.ZipFile(next(twice[0].glob("*.whl"))) as wheel:
        assert "edge_centernet/decoder/_decoder.abi3.so" in wheel.namelist()
        assert {info.date_time for info in wheel.infolist()} == {
            (2026, 1, 2, 3, 4, 4)
        }  # ZIP knows even seconds only
    with tarfile.open(next(twice[0].glob("*.tar.gz"))) as sources:
        names = {name.split("/", 1)[-1] for name in sources.getnames()}
    assert {
        "setup.py",
        "scripts/release.py",
        "edge_centernet/decoder/edgecn_decode.c",
        "tests/test_release.py",
    } <= names


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_sbom_names_what_an_installation_brings_with_its_licence(twice: tuple[Path, Path]) -> None:
    """CycloneDX: packages with version and licence, the wheel with its hash, no folder of this computer."""
    text = next(twice[0].glob("*.cdx.json")).read_text()
    described = json.loads(text)
    assert described["bomFormat"] == "CycloneDX"
    parts = {one["name"]: one for one in described["components"]}
    assert {
        "edge-centernet",
        "numpy",
        "opencv-python-headless",
        "click",
        "openvino",
        "ai-edge-litert",
    } <= set(parts)
    assert "torch" not in parts
    assert "pip" not in parts
    assert [name for name, one in parts.items() if not one["version"] or not one.get("licenses")] == []
    wheel = next(twice[0].glob("*.whl"))
    assert parts["edge-centernet"]["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert "file:" not in text
    assert str(twice[0].parent) not in text


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_who_has_the_files_can_check_them(twice: tuple[Path, Path]) -> None:
    """By sha256sum and ssh-keygen, as the last lines say; a signature for another purpose does not count."""
    out = twice[0]
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=True, capture_output=True
    )
    policy = (out.parent / "checkout/SECURITY.md").read_text().splitlines(keepends=True)
    (out.parent / "signers").write_text(
        "".join(line for line in policy if line.startswith("edge-centernet "))
    )
    for namespace, good in (("edge-centernet-release", True), ("edge-centernet-bundle", False)):
        check = [
            "ssh-keygen",
            "-Y",
            "verify",
            "-f",
            str(out.parent / "signers"),
            "-I",
            "edge-centernet",
            "-n",
            namespace,
        ]
        sums = (out / "SHA256SUMS").read_bytes()
        done = subprocess.run(
            [*check, "-s", str(out / "SHA256SUMS.sig")], input=sums, capture_output=True, check=False
        )
        assert (done.returncode == 0) is good
