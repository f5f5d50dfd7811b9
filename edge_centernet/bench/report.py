"""A record as a table for the terminal, with what one must know to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edge_centernet.bench.record import Record, spread
from edge_centernet.runtimes import ENGINES

_BUSY = 0.25  # load of the last minute for each core, from which on somebody else is at work
_FEW = 100  # frames; fewer have no 99th percentile
_WIDE = 0.05  # rounds that lie further apart than this, as a share, make small differences meaningless
_SLOW_GOVERNORS = ("powersave", "ondemand", "conservative")

Cell = Callable[[Record], str]

_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("runtime", lambda row: ENGINES[row["runtime"]].title),
    ("threads", lambda row: str(row["threads"])),
    ("computes in", lambda row: computed_in(row)),
    ("p50", lambda row: f"{row['p50_ms']['end_to_end']:.2f}"),
    ("p90", lambda row: f"{row['p90_ms']['end_to_end']:.2f}"),
    ("p99", lambda row: f"{row['p99_ms']['end_to_end']:.2f}"),
    ("rounds", lambda row: f"±{100.0 * spread(row):.1f} %"),
    ("pre", lambda row: f"{row['p50_ms']['preprocess']:.2f}"),
    ("infer", lambda row: f"{row['p50_ms']['inference']:.2f}"),
    ("decode", lambda row: f"{row['p50_ms']['decode']:.2f}"),
    ("fps", lambda row: f"{row['fps']:.1f}"),
    ("MB", lambda row: f"{row['peak_rss_mb']:.0f}"),
    ("start", lambda row: f"{row['cold_start_ms']['total'] / 1000.0:.2f}"),
)
_AGE: tuple[str, Cell] = (
    "age p50",
    lambda row: f"{row['frame_age_ms']['p50']:.0f}" if row["frame_age_ms"] else "-",
)
_ENERGY: tuple[str, Cell] = (
    "mJ",
    lambda row: f"{row['energy']['mj_per_frame']:.1f}" if row["energy"] else "-",
)
_LEGEND = (
    "p50, p90, p99: milliseconds from picture to boxes; rounds: half the range of the rounds' medians",
    "pre, infer, decode: p50 of each step; MB: most memory of the process; start: seconds from process to first boxes,",
    "which are the interpreter, imports, opening the model, reading a picture, detecting in it for the first time",
)


def as_text(record: Record) -> str:
    """Head, table, failures, notes."""
    tables = [*_table(record), *_failures(record), "", *_starts(record)]
    return "\n".join([*_head(record), "", *tables, "", *_LEGEND, *_notes(record)])


def computed_in(row: Record) -> str:
    """The precision of the file, and how many convolutions the engine computes in int8, as far as it tells."""
    share = str(row["executed"]["how"]).partition(" convolutions;")[0]
    told = row["executed"]["int8"] != "cannot be told" and share != row["executed"]["how"]
    how = f" ({share} int8)" if told else " (kernels not told)"
    return f"{row['precision']}{how}" + (f" {row['device']}" if row["device"] not in ("", "CPU") else "")


def machine_text(machine: dict[str, Any]) -> str:
    """Such as "Raspberry Pi 5 Model B, Cortex-A76, 4 cores"."""
    words = [machine["board"], machine["jetpack"], machine["cpu"] or machine["machine"]]
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    return ", ".join([*(word for word in words if word), cores])


def source_text(source: dict[str, Any]) -> str:
    """Such as "the sample photo (1110x512)"."""
    sizes = ", ".join(source["sizes"][:3]) + (", ..." if len(source["sizes"]) > 3 else "")
    what = {"sample": "the sample photo", "video": "a video", "live": "a camera"}.get(source["kind"])
    count = source["pictures"]
    return f"{what or f'{count} picture' + ('s' if count != 1 else '')} ({sizes})"


def _head(record: Record) -> Iterator[str]:
    model, settings = record["model"], record["settings"]
    yield f"{model['name']} {model['version']} on {machine_text(record['machine'])}"
    rounds = f"{settings['rounds']} rounds of {settings['turn_s']:.2g} s each, in turns"
    yield f"{source_text(record['source'])}; {rounds}" + ("; interrupted" if record["interrupted"] else "")


def _table(record: Record) -> Iterator[str]:
    rows: Sequence[Record] = record["results"]
    columns = list(_COLUMNS)
    if any(row["frame_age_ms"] for row in rows):
        columns.append(_AGE)
    if any(row["energy"] for row in rows):
        columns.append(_ENERGY)
    lines = [[name for name, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    return aligned(lines, left=3)


def _starts(record: Record) -> Iterator[str]:
    """Where the time of a start goes."""
    steps = ("interpreter", "imports", "open", "read", "detect", "total")
    lines = [["start, ms", "threads", *steps]]
    for row in record["results"]:
        times = [f"{row['cold_start_ms'][step]:.0f}" for step in steps]
        lines.append([ENGINES[row["runtime"]].title, str(row["threads"]), *times])
    return aligned(lines, left=2)


def aligned(lines: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """Cells in columns; the first `left` columns begin together, the others end together."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _failures(record: Record) -> Iterator[str]:
    for failure in record["failures"]:
        threads = f"{failure['threads']} thread{'s' if failure['threads'] != 1 else ''}"
        yield f"{ENGINES[failure['runtime']].title}, {threads}: {failure['reason']}"


def _notes(record: Record) -> Iterator[str]:
    """What the figures rest on, and what speaks against them."""
    board, rows = record["board"], record["results"]
    yield _cores(rows)
    yield _heat(board)
    energy = board["energy"]
    if "absent" in energy:
        yield f"energy: not measured: {energy['absent']}"
    else:
        yield f"mJ: millijoules a frame by {energy['meter']}; at rest the machine takes {energy['idle_watts']} W"
    if record["source"]["kind"] == "live":
        most = f"at most the camera's, which says {record['source']['fps']:g}"
        yield f"fps: {most}; age: milliseconds from capture to boxes"
    else:
        yield "frame age: does not apply, files do not grow old; measure a camera with --camera"
    for doubt in doubts(record):
        yield f"Note: {doubt}"


def _cores(rows: Sequence[Record]) -> str:
    used = {row["threads"]: ", ".join(map(str, row["cpus"])) for row in rows}
    words = "; ".join(
        f"{threads} thread{'s' if threads != 1 else ''} on CPU {cpus}" for threads, cpus in used.items()
    )
    return f"pinned: {words}" if all(row["pinned"] for row in rows) else f"meant for {words}, but not pinned"


def _heat(board: dict[str, Any]) -> str:
    heat, brakes = board["temperature_c"], board["throttled"]
    degrees = "not told" if heat is None else f"{heat['before']:g} °C before, {heat['most']:g} °C at most"
    held = "not told" if brakes is None else ", ".join(brakes) or "no"
    return f"temperature: {degrees}; held back: {held}"


def doubts(record: Record) -> Iterator[str]:
    """Reasons not to take the figures for more than they are; none on a quiet machine, measured for long enough."""
    board, machine, rows = record["board"], record["machine"], record["results"]
    if machine["emulated"]:
        yield "the processor is emulated: times say nothing about a real one"
    if board["load_before"] is not None and board["load_before"] > _BUSY * machine["cores"]:
        yield f"the machine was busy before (load {board['load_before']:g} on {machine['cores']} cores)"
    if slow := [name for name in machine["governor"] if name in _SLOW_GOVERNORS]:
        yield f"the clock follows the load (governor {', '.join(slow)}); 'performance' keeps it up"
    if machine["cpu_quota"] is not None and machine["cpu_quota"] < machine["cores"]:
        yield f"the container may use {machine['cpu_quota']:g} CPUs' time, whatever the number of threads"
    if board["throttled"]:
        yield f"the processor was held back: {', '.join(board['throttled'])}"
    if any(row["shares_core"] for row in rows):
        yield "some threads shared a core (hyperthreads), for there are not so many cores"
    if few := [row for row in rows if row["frames"] < _FEW]:
        yield f"{_named(few)}: fewer than {_FEW} frames, p99 is little more than the slowest; take a longer --duration"
    if unsettled := [row for row in rows if not row["warm_up"]["settled"]]:
        yield f"{_named(unsettled)}: did not settle in the warm-up"
    if wide := [row for row in rows if spread(row) > _WIDE]:
        yield f"{_named(wide)}: rounds lie more than ±{100 * _WIDE:g} % apart; something else was at work"
    if len({row["group"] for row in rows}) > 1:
        yield "memory did not hold all at once: those of different groups did not share their rounds"


def _named(rows: Sequence[Record]) -> str:
    return ", ".join(f"{ENGINES[row['runtime']].title} {row['threads']}" for row in rows)
