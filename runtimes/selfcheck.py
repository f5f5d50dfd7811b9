"""Does an engine compute this model on this machine? Asked once, in a process of its own, before it is relied on.

    python -m edge_centernet.runtimes.selfcheck MODEL ENGINE

A crash or a hang takes that process down, not the one that asks. What came out is remembered for the same
file, engine release and processor, in $XDG_CACHE_HOME/edge-centernet/selfcheck.json (~/.cache where that is
not set).
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_centernet.artifact import read_manifest
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.files import write_atomic
from edge_centernet.runtimes import compile_cache, providers
from edge_centernet.runtimes.engines import ENGINES, open_runtime
from edge_centernet.system.child import command_of, run_child

TIMEOUT = 120.0  # seconds; opening a model takes some ten on the smallest boards
BUILDING = 1500.0  # seconds more where a TensorRT engine is built, which takes some minutes
# Exit statuses of a process: its engine answered wrongly or not at all, its last line says how; the file or
# engine cannot be opened, whoever opens it will say why. No other than 0 is expected: Python's own errors are
# 1.
WRONG, UNOPENED = 3, 4

_log = logging.getLogger(__name__)


def selftest_failure(path: Path, engine: str) -> str | None:
    """Why an engine must not run this file on this machine, in a few words; None where nothing speaks against it.

    A file without a question (golden) is not asked, and one that cannot be opened is left to whoever opens
    it.
    """
    if read_manifest(path).golden is None:
        return None
    key = f"{compile_cache.content_of(path)} {engine} {version(engine)} {compile_cache.processor()}"
    if engine == "onnxruntime" and (others := providers.fingerprint()):
        key += f" {others}"
    known = _load()
    if key not in known:
        timeout = TIMEOUT
        if engine == "onnxruntime" and (line := providers.first_start(path)):
            _log.warning(line)
            timeout += BUILDING
        done, reason = ask(command_of(__name__, str(path.resolve()), engine), timeout)
        if not done:
            return reason or None
        known = {**_load(), key: reason}  # another process may have written meanwhile
        _store(known)
    return known[key] or None


def ask(command: list[str], timeout: float) -> tuple[bool, str]:
    """(whether the process came to a verdict that may be remembered, what is wrong or "")."""
    ended = run_child(command, timeout)
    if ended.status is None:
        return True, f"did not answer within {timeout:g} s"
    if ended.crash:
        return True, ended.crash
    if ended.status == WRONG:
        return True, ended.output.strip().splitlines()[-1]
    if ended.status in (0, UNOPENED):
        return ended.status == 0, ""
    return False, f"could not be asked: {ended.last_error}"


def version(engine: str) -> str:
    """The release of the engine's package that would be imported."""
    if engine == "onnxruntime":
        return providers.onnxruntime_version()
    for module in ENGINES[engine].modules:
        try:
            return f"{module} {metadata.version(module.replace('_', '-'))}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _cache() -> Path:
    return compile_cache.folder() / "selfcheck.json"


def _load() -> dict[str, str]:
    try:
        content: Any = json.loads(_cache().read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def _store(known: dict[str, str]) -> None:
    """A cache that cannot be written costs a second next time."""
    try:
        _cache().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(_cache(), json.dumps(known, indent=1) + "\n")
    except OSError:
        return


def main(path: Path, engine: str) -> int:
    """Ask and answer in this process; returns the exit status."""
    from edge_centernet import selftest  # needs NumPy, which the process that asks may not have

    try:
        opened = open_runtime(path, engine, threads=1)
    except EdgeCenterNetError as error:
        print(error, file=sys.stderr)
        return UNOPENED
    with closing(opened) as runtime:
        try:
            heads = runtime.run(selftest.test_input(runtime.manifest))
            wrong = selftest.problem(runtime.manifest, heads, version(engine).split()[0])
        except EdgeCenterNetError as error:
            print(f"gives no answer: {error}")
            return WRONG
    print(f"answers wrongly: {wrong}" if wrong else "right")
    return WRONG if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
