"""What the decoder tests share: both back ends and the goldens' own reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import load_script

import edge_centernet.decoder
from edge_centernet.decoder import rule

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["numpy", "c"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each back end in turn; "c" is only missing where nothing could have compiled it."""
    if request.param == "c" and edge_centernet.decoder.BACKEND != "c":
        request.getfixturevalue("compiler")
        pytest.fail("there is a C compiler, but no extension: python setup.py build_ext --inplace")
    return str(request.param)


@pytest.fixture
def decoder(backend: str) -> ModuleType:
    """Each back end in turn."""
    if backend == "numpy":
        return rule
    from edge_centernet.decoder import native

    return native


@pytest.fixture
def decode_boxes(decoder: ModuleType) -> Callable[..., Any]:
    """`decode_boxes` of each back end in turn."""
    found: Callable[..., Any] = decoder.decode_boxes
    return found


@pytest.fixture(scope="session")
def goldens() -> ModuleType:
    """tests/c/make_goldens.py as a module."""
    return load_script("../tests/c/make_goldens")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout these tests belong to."""
    return ROOT
