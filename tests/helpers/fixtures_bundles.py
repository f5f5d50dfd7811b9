"""Keys and real bundles for this computer, made once for all tests."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest
from keys import new_key

from edge_centernet.deploy.boards import Target, find_target
from edge_centernet.deploy.bundle import Contents, make_bundle
from edge_centernet.deploy.signing import signers_line

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whoever signs the bundles."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen: apt-get install openssh-client")
    return new_key(tmp_path_factory.mktemp("key") / "id")


@pytest.fixture(scope="session")
def signers(key: Path) -> Path:
    """The file that boards pin."""
    path = key.with_name("signers")
    path.write_text(signers_line(key))
    return path


@pytest.fixture(scope="session")
def here() -> Target:
    """A target that this computer is."""
    if platform.machine() != "x86_64":
        pytest.skip(f"bundles are tested on x86_64, this is {platform.machine()}")
    return find_target("x86", PYTHON, "ai-edge-litert")


@pytest.fixture(scope="session")
def bundle(here: Target, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle with the default model."""
    return make_bundle(here, Contents("centernet-mbv2-320"), key, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def nano(here: Target, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the nano model alone."""
    contents = Contents("centernet-nano-256", only_model=True)
    return make_bundle(here, contents, key, tmp_path_factory.mktemp("nano"))
