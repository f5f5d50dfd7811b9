"""Make a release: sdist, wheels, SBOM, checksums. Uploads and tags nothing; its last lines say what is next.

    python scripts/release.py --dry-run                          # only look whether a release could be made
    python scripts/release.py --sign ~/.ssh/id_ed25519           # into dist/VERSION
    python scripts/release.py --only x86_64 --out /tmp/release   # without the cross-compiled wheel

The version is `edge_centernet.__version__`. Refused are a tree with changes, a CHANGELOG.md that does not
begin with that version, a tag of it at another commit, and a folder that is there already. What is built is
the commit.

    edge_centernet-VERSION.tar.gz     sources
    edge_centernet-VERSION-*.whl      x86-64 and ARM 64, by scripts/build_wheels.sh, which tests them
    edge_centernet-VERSION.cdx.json   CycloneDX SBOM of what `edge-centernet[openvino,tflite]` brings
    SHA256SUMS, SHA256SUMS.sig        with --sign: by ssh-keygen -Y, namespace edge-centernet-release

The same commit gives the same bytes, as long as PyPI's newest releases (the SBOM) are the same: tools are
pinned in scripts/release-requirements.txt, with hashes, and all times are the commit's. At the end the wheel
is installed in a fresh environment, whose packages and the oldest that setup.cfg allows must have no known
hole (pip-audit), and finds the person and the cat. OUT appears only when all of this went well. The key of
--sign must be the one that SECURITY.md publishes.
"""

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
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from edge_centernet.deploy.signing import sign, signers_line, signing_key
from edge_centernet.errors import ConfigError, EdgeCenterNetError

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "edge-centernet-release"
EXTRAS = "openvino,tflite"  # what README's first command installs


# cyclonedx-py reads classifiers and SPDX expressions; some packages say it in words only.
_LICENCES = """
import importlib.metadata as m, json
found = [d.metadata for d in m.distributions()]
print(json.dumps({about["Name"]: about["License"] for about in found if about["License"]}))
"""


# Where its packages are, then what the wheel requires, a line each.
_REQUIRES = """
import importlib.metadata as m, sysconfig
print(sysconfig.get_path("purelib"), *m.requires("edge-centernet"), sep="\\n")
"""


class ReleaseError(EdgeCenterNetError):
    """A step of the release failed."""

    exit_code = 1


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make.  [default: dist/VERSION]")
@click.option("--only", type=click.Choice(["x86_64"]), help="Build this wheel alone.")
@click.option("--sign", "key", type=click.Path(path_type=Path), help="Private ssh key for SHA256SUMS.sig.")
@click.option(
    "--accept", multiple=True, metavar="ID", help="Known hole of a dependency that does not concern us."
)
@click.option("--dry-run", is_flag=True, help="Look whether a release could be made; write nothing.")
def main(
    out: Path | None, only: str | None, key: Path | None, accept: tuple[str, ...], dry_run: bool
) -> None:
    """Build everything that a release consists of, from the commit that is checked out."""
    try:
        version = check_tree(ROOT)
        out = out or ROOT / "dist" / version
        if out.exists():
            raise ConfigError(f"{out}: expected no such folder, found one; remove it, or give another --out")
        if key is not None:
            key, _ = signing_key(key)
            check_key(ROOT, key)
        if dry_run:
            click.echo(f"edge-centernet {version}, commit {commit(ROOT)[:12]}: could be released, to {out}")
            return
        make(version, out, only, key, accept)
    except EdgeCenterNetError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("Stopped; nothing was left behind.", err=True)
        sys.exit(130)
    click.echo(next_steps(version, out, key))


# ---- may it be released?


def check_tree(root: Path) -> str:
    """The version, if the checkout may be released as it. Raises ConfigError with what is in the way."""
    version = read_version(root)
    if changes := _git(root, "status", "--porcelain").splitlines():
        got = f"got {len(changes)}, the first is {changes[0].strip()!r}"
        raise ConfigError(f"{root}: expected a tree without changes, {got}; commit or remove them")
    newest = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if newest is None or newest[1] != version:
        raise ConfigError(
            f"CHANGELOG.md: expected the newest section to be '## {version}', got {newest and newest[1]}; "
            "tell users what changed, or change edge_centernet.__version__"
        )
    # At this very commit it may stand: pushing it is what starts the release.
    if _git(root, "tag", "--list", f"v{version}").strip():
        tagged = _git(root, "rev-list", "-1", f"v{version}").strip()
        if tagged != commit(root):
            where = (
                f"expected no tag v{version} but at the commit that is checked out, found it at {tagged[:12]}"
            )
            raise ConfigError(f"{where}; raise edge_centernet.__version__")
    return version


def check_key(root: Path, key: Path) -> None:
    """Raises ConfigError unless SECURITY.md has the public half of a private key, so that all can verify."""
    line = signers_line(key, NAMESPACE).strip()
    policy = root / "SECURITY.md"
    if not policy.is_file() or line not in policy.read_text(encoding="utf-8").splitlines():
        raise ConfigError(
            f"{policy}: expected the public half of {key}, by which users verify a release; "
            f"commit this line in its block of release keys: {line}"
        )


def read_version(root: Path) -> str:
    """`__version__` of the sources in `root`, without importing them."""
    text = (root / "edge_centernet/__init__.py").read_text(encoding="utf-8")
    if found := re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE):
        return found[1]
    raise ConfigError("edge_centernet/__init__.py: expected __version__, found none")


def commit(root: Path) -> str:
    """The hash of what is checked out."""
    return _git(root, "rev-parse", "HEAD").strip()


# ---- the release


def make(version: str, out: Path, only: str | None, key: Path | None, accept: Sequence[str] = ()) -> None:
    """All files, in `out`.

    Args:
        version: of the package.
        out: the folder to make.
        only: the one wheel to build; all unless given.
        key: private ssh key to sign the checksums with, if any.
        accept: ids of known holes in dependencies that do not stop it.
    """
    os.umask(0o022)  # archives hold permissions
    epoch = _git(ROOT, "log", "-1", "--format=%ct").strip()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0", "TZ": "UTC"}
    out.parent.mkdir(parents=True, exist_ok=True)
    # A folder beside `out`, from which one rename leads there.
    with tempfile.TemporaryDirectory(prefix=".release-", dir=out.parent) as name:
        work = Path(name).resolve()
        built = work / "built"
        built.mkdir()
        source = export(ROOT, work / "source")
        _say("Tools, as pinned")
        python = _tools(work / "tools", source)
        _say("Sources")
        build = [python, "-m", "build", "-q", "--sdist", "--no-isolation", "--outdir", built, source]
        _run(*build, env=environment)
        even(next(built.glob("*.tar.gz")), int(epoch))
        _say("Wheels, tested in their own architecture")
        _run(source / "scripts/build_wheels.sh", *(["--only", only] if only else []), built, env=environment)
        _run(python, "-m", "twine", "check", "--strict", *sorted(built.glob("edge_centernet-*")))
        _say("Installing the wheel in a fresh environment")
        wheel = next(built.glob("*x86_64.whl"))
        installed = install(wheel, work / "installed", python)
        audit(installed, python, work, accept)
        detect(installed, source, work)
        _say("SBOM")
        (built / f"edge_centernet-{version}.cdx.json").write_text(sbom(installed, python, wheel))
        sums = checksums(built)
        (built / "SHA256SUMS").write_text(sums)
        if key is not None:
            (built / "SHA256SUMS.sig").write_bytes(sign(sums.encode(), key, NAMESPACE))
        os.replace(built, out)


def export(root: Path, folder: Path) -> Path:
    """The commit that is checked out, without git."""
    folder.mkdir()
    command = ["git", "-C", str(root), "archive", "HEAD"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="fully_trusted")  # our own commit, with its links
    return folder


def _tools(folder: Path, source: Path) -> Path:
    """A Python with what scripts/release-requirements.txt pins."""
    _run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    _run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--require-hashes",
        "-r",
        source / "scripts/release-requirements.txt",
    )
    return python


def even(archive: Path, epoch: int) -> None:
    """Pack a .tar.gz again so that equal files give equal bytes: sorted, one owner, one time."""
    packed = io.BytesIO()
    pax = tarfile.PAX_FORMAT
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w", format=pax) as new:
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            content = old.extractfile(member) if member.isfile() else None
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, content)
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def install(wheel: Path, folder: Path, python: Path) -> Path:
    """A Python with the wheel, the extras of README's first command, and nothing else, not even pip."""
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    target = folder / "bin/python"
    _run(python, "-m", "pip", "--python", target, "install", "-q", f"{wheel}[{EXTRAS}]")
    return target


def audit(installed: Path, python: Path, work: Path, accept: Sequence[str]) -> None:
    """Look for known holes in what is installed, and in the oldest versions that setup.cfg allows.

    Args:
        installed: a Python with the wheel.
        python: one with pip-audit.
        work: folder for a list of requirements.
        accept: ids of holes that do not concern us.

    Says so and goes on where PyPI's advisories cannot be had. Raises ReleaseError with the holes.
    """
    site, *requires = _run(installed, "-c", _REQUIRES).splitlines()
    bounds = work / "oldest.txt"
    bounds.write_text("".join(f"{name}=={version}\n" for name, version in oldest(requires).items()))
    ignored = [word for one in accept for word in ("--ignore-vuln", one)]
    holes: list[str] = []
    for what in (["--path", site], ["--requirement", bounds, "--no-deps", "--disable-pip"]):
        command = [
            python,
            "-m",
            "pip_audit",
            "--format",
            "json",
            "--progress-spinner",
            "off",
            *what,
            *ignored,
        ]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        try:
            packages = json.loads(done.stdout)["dependencies"]
            unknown = [
                one["name"] for one in packages if one["name"] != "edge-centernet" and "vulns" not in one
            ]
        except (ValueError, KeyError):
            packages, unknown = [], (done.stderr.strip().splitlines() or ["no reason given"])[-1:]
        if unknown:
            _say(f"NOT AUDITED for known holes, as PyPI's advisories cannot be had: {', '.join(unknown)}")
        for one in packages:
            holes += [f"{one['name']} {one['version']}: {hole['id']}" for hole in one.get("vulns", ())]
    if holes:
        raise ReleaseError(
            f"expected no known hole in a dependency, got {'; '.join(dict.fromkeys(holes))}; raise the bound "
            "in setup.cfg, or --accept the ID if it does not concern us, and say why in the release notes"
        )


def oldest(requires: Iterable[str]) -> dict[str, str]:
    """The oldest version of each package by its name, from the lines of a wheel's metadata.

    Of several for different Pythons the last; without what only those need who work on the project.
    """
    found = {}
    for line in requires:
        bound = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\w.]+)", line)
        if bound and not re.search(r"""["'](dev|docs)["']""", line):
            found[bound[1]] = bound[2]
    return found


def detect(python: Path, source: Path, work: Path) -> None:
    """README's first detection, by the installed wheel. ReleaseError unless it finds person and cat."""
    photo = work / "sample.jpg"
    shutil.copy(source / "edge_centernet/assets/sample.jpg", photo)
    out = work / "detections"
    told = _run(python.parent / "edge-centernet", "detect", "--source", photo, "--out", out, cwd=work)
    frames = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    found = sorted({one["class"] for frame in frames for one in frame["detections"]})
    if not {"person", "cat"} <= set(found) or not (out / photo.name).is_file():
        raise ReleaseError(f"expected the installed wheel to find the person and the cat, got {found}")
    _say(f"Found by the installed wheel: {', '.join(found)}")


def sbom(installed: Path, python: Path, wheel: Path) -> str:
    """CycloneDX, JSON, of what is installed: names, versions, licences, dependencies. No times, no paths."""
    arguments = ["--output-reproducible", "--of", "JSON", "--mc-type", "application", installed]
    described: dict[str, Any] = json.loads(_run(python.parent / "cyclonedx-py", "environment", *arguments))
    free_text = json.loads(_run(installed, "-c", _LICENCES))
    for component in described["components"]:
        references = component.get("externalReferences", [])
        # What begins with file: is where pip found the wheel.
        component["externalReferences"] = [one for one in references if not one["url"].startswith("file:")]
        if not component.get("licenses") and free_text.get(component["name"]):
            component["licenses"] = [{"license": {"name": free_text[component["name"]]}}]
        if component["name"] == "edge-centernet":
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    unknown = [one["name"] for one in described["components"] if not one.get("licenses")]
    if unknown:
        _say(f"No licence in the metadata of {', '.join(unknown)}: look it up for the release notes")
    return json.dumps(described, indent=1, sort_keys=True) + "\n"


def checksums(folder: Path) -> str:
    """What `sha256sum -c` reads."""
    files = sorted(folder.iterdir())
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def next_steps(version: str, out: Path, key: Path | None) -> str:
    """What a maintainer does with it."""
    signed = f"""
  grep '^edge-centernet ' SECURITY.md > signers
  ssh-keygen -Y verify -f signers -I edge-centernet -n {NAMESPACE} -s SHA256SUMS.sig"""
    return f"""{out}: edge-centernet {version} of commit {commit(ROOT)[:12]}

Look at it, then push its tag, by which .github/workflows/release.yml makes the same files and publishes them:
  git tag -a v{version} -m 'edge-centernet {version}' {commit(ROOT)[:12]} && git push origin v{version}
or publish these:
  twine upload {out}/*.tar.gz {out}/*.whl
and put SHA256SUMS and the SBOM beside them. Who has all files checks them with
  sha256sum -c SHA256SUMS{signed + " < SHA256SUMS" if key else ""}"""


# ---- running things


def _say(step: str) -> None:
    click.echo(step, err=True)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"git {arguments[0]}: {done.stderr.strip()}; expected a git checkout")
    return done.stdout


def _run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a command printed. Raises ReleaseError with its last lines where it fails."""
    words = [str(word) for word in command]
    # Without PYTHONPATH: an environment of its own must not see the checkout.
    ours = ("PYTHONPATH", "VIRTUAL_ENV")
    clean = {name: value for name, value in (env or os.environ).items() if name not in ours}
    done = subprocess.run(words, capture_output=True, text=True, env=clean, cwd=cwd)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ReleaseError(f"{' '.join(words[:6])}: exit code {done.returncode}\n{last}")
    return done.stdout


if __name__ == "__main__":
    main()
