"""The decoder as a C library of its own: CMake, pkg-config, ESP-IDF's call, and their versions."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from c_library import SOURCES, run

VERSION = re.findall(r"#define ECN_VERSION 0x(....)(....)u", (SOURCES / "edgecn_decode.h").read_text())[0]
MAJOR, MINOR = (int(digits, 16) for digits in VERSION)
DOTTED = f"{MAJOR}.{MINOR}"  # 2.0
PROGRAM = """
#include <edgecn_decode.h>
#include <stdio.h>
int main(void)
{
    printf("%u.%u\\n", (unsigned)(ecn_version() >> 16), (unsigned)(ecn_version() & 0xFFFFu));
    return ecn_decode(NULL, NULL, 0) == ECN_ERR_NULL ? 0 : 1;
}
"""
CONSUMER = """
cmake_minimum_required(VERSION 3.16)
project(consumer C)
find_package(edgecn {wanted} REQUIRED)
add_executable(app app.c)
target_link_libraries(app PRIVATE edgecn::edgecn)
"""
PARENT = """
cmake_minimum_required(VERSION 3.16)
project(parent C)
add_subdirectory({sources} edgecn)
add_executable(app app.c)
target_link_libraries(app PRIVATE edgecn::edgecn)
"""
# As ESP-IDF reads a component's CMakeLists.txt to learn what it requires: in script mode.
ESP_IDF = """
set(ESP_PLATFORM 1)
macro(idf_component_register)
  message(STATUS "${{ARGV}}")
  return()
endmacro()
include({sources}/CMakeLists.txt)
"""


def tool(name: str) -> str:
    """Path of a program; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: apt-get install {name}")
    return found


def consumer(folder: Path, lists: str) -> Path:
    """A CMake project around PROGRAM."""
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(lists)
    (folder / "app.c").write_text(PROGRAM)
    return folder


def output(project: Path, build: Path, option: str) -> str:
    """What the project's program prints, once it is configured and built."""
    run(tool("cmake"), "-S", project, "-B", build, option)
    run(tool("cmake"), "--build", build)
    return run(build / "app")


@pytest.fixture(scope="module", params=["static", "shared"])
def installed(
    request: pytest.FixtureRequest, compiler: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The library, configured for one place and installed in another: no path in it may be absolute."""
    cmake, folder = tool("cmake"), tmp_path_factory.mktemp(request.param)
    shared = "ON" if request.param == "shared" else "OFF"
    options = [
        f"-DCMAKE_C_COMPILER={compiler}",
        f"-DBUILD_SHARED_LIBS={shared}",
        "-DCMAKE_C_FLAGS=-Wall -Werror",
    ]
    run(
        cmake,
        "-S",
        SOURCES,
        "-B",
        folder / "build",
        f"-DCMAKE_INSTALL_PREFIX={folder / 'elsewhere'}",
        *options,
    )
    run(cmake, "--build", folder / "build")
    run(cmake, "--install", folder / "build", "--prefix", folder / "prefix")
    assert not (folder / "elsewhere").exists()
    return folder / "prefix"


@pytest.mark.cross
def test_install_holds_headers_and_one_library(installed: Path) -> None:
    """All edgecn_*.h in include; no header and no object of the Python extension."""
    headers = {path.name for path in (installed / "include").iterdir()}
    assert headers == {path.name for path in SOURCES.glob("edgecn_*.h")}
    (library,) = (path for path in installed.rglob("libedgecn.*") if not path.is_symlink())
    assert re.fullmatch(r"libedgecn\.(a|so\.2\.\d+)", library.name)


@pytest.mark.cross
def test_find_package_builds_and_runs(installed: Path, tmp_path: Path) -> None:
    """find_package(edgecn 2) and edgecn::edgecn are all that a program needs to print the version."""
    project = consumer(tmp_path / "app", CONSUMER.format(wanted=MAJOR))
    assert output(project, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}") == f"{DOTTED}\n"


@pytest.mark.cross
@pytest.mark.parametrize("wanted", ["1", "2.99", "3"])
def test_find_package_refuses_another_version(installed: Path, tmp_path: Path, wanted: str) -> None:
    """Another major version, or a later minor one than is installed, is not found."""
    project = consumer(tmp_path / "app", CONSUMER.format(wanted=wanted))
    command = [tool("cmake"), "-S", project, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert f'requested version "{wanted}"' in done.stderr


@pytest.mark.cross
def test_pkg_config_builds_and_runs(installed: Path, compiler: str, tmp_path: Path) -> None:
    """The flags that pkg-config prints compile, link and run the same program."""
    pkg_config = tool("pkg-config")
    (pc,) = installed.rglob("edgecn.pc")
    env = {"PKG_CONFIG_PATH": str(pc.parent), "PATH": "/usr/bin:/bin"}
    assert run(pkg_config, "--modversion", "edgecn", env=env) == f"{DOTTED}\n"
    flags = run(pkg_config, "--cflags", "--libs", "edgecn", env=env).split()
    (tmp_path / "app.c").write_text(PROGRAM)
    run(compiler, tmp_path / "app.c", *flags, "-o", tmp_path / "app")
    assert run(tmp_path / "app", env={"LD_LIBRARY_PATH": str(pc.parent.parent)}) == f"{DOTTED}\n"


@pytest.mark.cross
def test_add_subdirectory_builds_and_runs(compiler: str, tmp_path: Path) -> None:
    """A project that carries the sources links the same target."""
    project = consumer(tmp_path / "app", PARENT.format(sources=SOURCES))
    assert output(project, tmp_path / "build", f"-DCMAKE_C_COMPILER={compiler}") == f"{DOTTED}\n"


@pytest.mark.cross
def test_esp_idf_gets_the_library_only(tmp_path: Path) -> None:
    """idf_component_register is called with every edgecn_*.c, without _glue.c, in script mode too."""
    (tmp_path / "scan.cmake").write_text(ESP_IDF.format(sources=SOURCES))
    said = run(tool("cmake"), "-P", tmp_path / "scan.cmake").strip()
    sources = ";".join(str(path) for path in sorted(SOURCES.glob("edgecn_*.c")))
    assert said == f"-- SRCS;{sources};INCLUDE_DIRS;."


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("library.properties", r"^version=(.+)$"), ("idf_component.yml", r'^version: "(.+)"$')],
)
def test_packages_state_the_version_of_the_header(file: str, pattern: str) -> None:
    """2.0.0 where ECN_VERSION is 2.0."""
    found = re.search(pattern, (SOURCES / file).read_text(), re.M)
    assert found
    assert found[1] == f"{DOTTED}.0"
