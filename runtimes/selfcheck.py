"""Does an engine compute this model correctly on this machine? Tested once, in a process of its own.

    python -m edge_centernet.runtimes.selfcheck MODEL ENGINE [DEVICE]

A crash or a hang ends that process, not the one that wants to detect. The result on a CPU is remembered for
the same file, engine release and processor, in $XDG_CACHE_HOME/edge-centernet/selfcheck.json (~/.cache where
that is not set). The reasons are in docs/decisions/0014-self-check.md.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_centernet.artifact import read_manifest
from edge_centernet.errors import EdgeCenterNetError
from edge_centernet.files import write_atomic
from edge_centernet.runtimes import compile_cache, executed_precision, providers
from edge_centernet.runtimes.engines import CPU, ENGINES, is_cpu, open_runtime
from edge_centernet.system.child import command_of, run_child

TIMEOUT = 120.0  # seconds; opening a model takes some ten on the smallest boards
BUILDING = 1500.0  # seconds more where a TensorRT engine is built, which takes some minutes
# Exit statuses of the test's process, beside 0. They differ from Python's own 1, which means that the test
# itself failed and nothing is known about the engine.
WRONG = 3  # the engine's result is wrong, or there is none; the last line of the output says how
UNOPENED = 4  # the file or the engine cannot be opened; whoever opens it next will report why

_log = logging.getLogger(__name__)


def selftest_failure(path: Path, engine: str, device: str = CPU) -> str | None:
    """Why an engine must not run this file on this machine and device, in a few words; None if it may.

    A device other than the CPU must also compute an int8 file in int8, where it tells how it computes.
    A file without a self-test vector is run all the same: one that crashes the engine is found out. A file
    that cannot be opened is left to whoever opens it, who reports the reason.
    """
    read_manifest(path)
    command = command_of(__name__, str(path.resolve()), engine)
    if not is_cpu(device):
        # Asked at every start: a driver's release could change the verdict, too, and to ask for that means
        # to load the driver, which may crash.
        return ask([*command, device], TIMEOUT)[1] or None
    # Whatever could change the verdict is in the key: an update of the engine is tested again.
    key = f"{compile_cache.content_of(path)} {engine} {version(engine)} {compile_cache.processor()}"
    if engine == "onnxruntime" and (others := providers.fingerprint()):
        key += f" {others}"
    known = _load()
    if key not in known:
        timeout = TIMEOUT
        if engine == "onnxruntime" and (line := providers.first_start(path)):
            _log.warning(line)
            timeout += BUILDING
        done, reason = ask(command, timeout)
        if not done:
            return reason or None
        known = {**_load(), key: reason}  # another process may have written meanwhile
        # A cache that cannot be written costs a second at the next start, and is no reason not to detect.
        with suppress(OSError):
            compile_cache.make_private(_cache().parent)
            write_atomic(_cache(), json.dumps(known, indent=1) + "\n")
            _cache().chmod(0o600)  # whatever the umask: others' words are not believed
    return known[key] or None


def ask(command: list[str], timeout: float) -> tuple[bool, str]:
    """Run the test's process: (whether it reached a verdict that may be remembered, what is wrong or "")."""
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
        content: Any = json.loads(_cache().read_text()) if compile_cache.is_private(_cache()) else {}
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def main(path: Path, engine: str, device: str = CPU) -> int:
    """Run the self-test in this process; returns the exit status."""
    # They need NumPy, which the calling process may not have.
    import numpy as np

    from edge_centernet import selftest

    try:
        opened = open_runtime(path, engine, threads=1, device=device)
    except EdgeCenterNetError as error:
        print(error, file=sys.stderr)
        return UNOPENED
    with closing(opened) as runtime:
        manifest = runtime.manifest
        try:
            x = np.zeros(manifest.input.shape, manifest.input.dtype)
            wrong = None
            if manifest.golden is None:  # the right answer is not known: it only has to give one
                runtime.run(x)
            else:
                x = selftest.test_input(manifest)
                wrong = selftest.problem(manifest, runtime.run(x), version(engine).split()[0])
        except EdgeCenterNetError as error:
            print(f"gives no answer: {error}")
            return WRONG
        if wrong:
            print(f"answers wrongly: {wrong}")
            return WRONG
        # Whoever asks for another device wants its speed. One that does not tell, such as an NPU, is judged
        # by its answers alone.
        if not is_cpu(device) and manifest.precision == "int8":
            executed = executed_precision.executed(runtime, path, x)
            if executed.int8 in ("no", "partly"):
                print(f"does not compute in int8: {executed.how}")
                return WRONG
    print("right")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
