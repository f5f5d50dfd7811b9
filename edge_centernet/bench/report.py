"""A record for people: a table for the terminal, a comparison with another record, a chart."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from edge_centernet.bench.record import Record, medians, spread
from edge_centernet.errors import ConfigError, MissingDependency
from edge_centernet.files import write_atomic
from edge_centernet.runtimes import ENGINES

SURE = 0.9  # of all pairs of a round of A and one of B, so many must point the same way
STEPS = ("end_to_end", "preprocess", "inference", "decode")
CHARTS = (".png", ".svg")
_BUSY = 0.25  # load of the last minute for each core, from which on somebody else is at work
_FEW = 100  # frames; fewer have no 99th percentile
_WIDE = 0.05  # rounds that lie further apart than this, as a share, make small differences meaningless
_SLOW_GOVERNORS = ("powersave", "ondemand", "conservative")
# Okabe and Ito's colours, which people with colour vision deficiencies can tell apart.
_COLOURS = {"preprocess": "#56B4E9", "inference": "#0072B2", "decode": "#E69F00"}
_MARKS = {"p50_ms": "o", "p90_ms": "|", "p99_ms": "x"}

Cell = Callable[[Record], str]
Key = tuple[str, int, str]  # runtime, threads, precision

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
# Columns that only appear where a row has something to put into them.
_AGE: tuple[str, Cell] = (
    "age p50",
    lambda row: f"{row['frame_age_ms']['p50']:.0f}" if row["frame_age_ms"] else "-",
)
_ENERGY: tuple[str, Cell] = (
    "mJ",
    lambda row: f"{row['energy']['mj_per_frame']:.1f}" if row["energy"] else "-",
)
_LEGEND = (
    "p50, p90, p99: milliseconds from image to boxes; rounds: half the range of the rounds' medians",
    "pre, infer, decode: p50 of each step; MB: peak memory of the process; start: seconds from process to",
    "first boxes: the interpreter, imports, opening the model, reading an image and detecting in it",
)
_COMPARISON_LEGEND = (
    "B/A: of the medians end to end, then of each step, of fps and of memory. Slower or faster: in at least "
    f"{SURE:.0%}\nof all pairs of a round of A and one of B. Two runs of the same thing differ too: "
    "measure A twice."
)

# ---- the table ---------------------------------------------------------------------------------------


def as_text(record: Record) -> str:
    """The record as text: what was measured, a table of results, failures, a table of starts, notes."""
    model, settings = record["model"], record["settings"]
    rows: Sequence[Record] = record["results"]
    # 1. What was measured, where and how.
    rounds = f"{settings['rounds']} rounds of {settings['turn_s']:.2g} s each, in turns"
    text = [
        f"{model['name']} {model['version']} on {machine_text(record['machine'])}",
        f"{source_text(record['source'])}; {rounds}" + ("; interrupted" if record["interrupted"] else ""),
        "",
    ]
    # 2. A row for each configuration.
    columns = list(_COLUMNS)
    if any(row["frame_age_ms"] for row in rows):
        columns.append(_AGE)
    if any(row["energy"] for row in rows):
        columns.append(_ENERGY)
    text += aligned(
        [[name for name, _ in columns], *([cell(row) for _, cell in columns] for row in rows)], left=3
    )
    # 3. A line for each configuration that could not be measured.
    for failure in record["failures"]:
        threads = f"{failure['threads']} thread{'s' if failure['threads'] != 1 else ''}"
        text.append(f"{ENGINES[failure['runtime']].title}, {threads}: {failure['reason']}")
    # 4. Where the time of a start goes.
    steps = ("interpreter", "imports", "open", "read", "detect", "total")
    starts = [["start, ms", "threads", *steps]]
    for row in rows:
        times = [f"{row['cold_start_ms'][step]:.0f}" for step in steps]
        starts.append([ENGINES[row["runtime"]].title, str(row["threads"]), *times])
    text += ["", *aligned(starts, left=2), "", *_LEGEND]
    # 5. What the figures rest on, and what speaks against them.
    used = {row["threads"]: ", ".join(map(str, row["cpus"])) for row in rows}
    cpus = "; ".join(f"{n} thread{'s' if n != 1 else ''} on CPU {numbers}" for n, numbers in used.items())
    pinned = all(row["pinned"] for row in rows)
    text.append(f"pinned: {cpus}" if pinned else f"meant for {cpus}, but not pinned")
    heat, throttled, energy = (record["board"][key] for key in ("temperature_c", "throttled", "energy"))
    degrees = "unknown" if heat is None else f"{heat['before']:g} °C before, {heat['most']:g} °C at most"
    reasons = "unknown" if throttled is None else ", ".join(throttled) or "no"
    text.append(f"temperature: {degrees}; throttled: {reasons}")
    if "absent" in energy:
        text.append(f"energy: not measured: {energy['absent']}")
    else:
        idle = f"at rest the machine takes {energy['idle_watts']} W"
        text.append(f"mJ: millijoules a frame by {energy['meter']}; {idle}")
    if record["source"]["kind"] == "live":
        most = f"at most the camera's, which reports {record['source']['fps']:g}"
        text.append(f"fps: {most}; age: milliseconds from capture to boxes")
    else:
        text.append("frame age: does not apply, files do not grow old; measure a camera with --camera")
    return "\n".join([*text, *(f"Note: {doubt}" for doubt in doubts(record))])


def computed_in(row: Record) -> str:
    """The precision of the file, and how many convolutions the engine computes in int8, if that is known."""
    share = str(row["executed"]["how"]).partition(" convolutions;")[0]
    known = row["executed"]["int8"] != "cannot be told" and share != row["executed"]["how"]
    how = f" ({share} int8)" if known else " (kernels unknown)"
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
    return f"{what or f'{count} image' + ('s' if count != 1 else '')} ({sizes})"


def aligned(lines: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """Cells in columns; the first `left` columns begin together, the others end together."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def doubts(record: Record) -> Iterator[str]:
    """Reasons to distrust the figures; none on a quiet machine that was measured for long enough."""
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
        yield f"the processor was throttled: {', '.join(board['throttled'])}"
    if any(row["shares_core"] for row in rows):
        yield "some threads shared a core (hyperthreads), for there are not so many cores"
    if few := [row for row in rows if row["frames"] < _FEW]:
        yield (
            f"{_named(few)}: fewer than {_FEW} frames, p99 is little more than the slowest; "
            "take a longer --duration"
        )
    if unsettled := [row for row in rows if not row["warm_up"]["settled"]]:
        yield f"{_named(unsettled)}: did not settle in the warm-up"
    if wide := [row for row in rows if spread(row) > _WIDE]:
        yield f"{_named(wide)}: rounds lie more than ±{100 * _WIDE:g} % apart; something else was at work"
    if len({row["group"] for row in rows}) > 1:
        yield "memory did not hold all at once: those of different groups did not share their rounds"


def _named(rows: Sequence[Record]) -> str:
    return ", ".join(f"{ENGINES[row['runtime']].title} {row['threads']}" for row in rows)


# ---- two records beside each other -------------------------------------------------------------------


class Ratio(NamedTuple):
    """B to A of one step of one configuration, by the medians of the rounds.

    slower: the share of pairs of a round of each in which B took longer, ties half. 0.5: no difference.
    """

    value: float
    slower: float

    @property
    def verdict(self) -> str:
        """In words, of B. It is about these two runs: two runs of the same thing differ too."""
        if self.slower >= SURE:
            return "slower"
        return "faster" if self.slower <= 1.0 - SURE else "within the spread"


def ratio(a: Record, b: Record, step: str = "end_to_end") -> Ratio:
    """Of two results.

    The share of pairs is the common-language effect size (McGraw and Wong, 1992), the Mann-Whitney U divided
    by the number of pairs; it asks for no distribution, and one disturbed round in ten does not decide.
    """
    one, other = medians(a, step), medians(b, step)
    pairs = [(x, y) for x in one for y in other]
    longer = sum(1.0 if y > x else 0.5 if y == x else 0.0 for x, y in pairs)
    before = a["p50_ms"][step]
    return Ratio(b["p50_ms"][step] / before if before else 1.0, longer / len(pairs))


def comparison(a: Record, b: Record) -> str:
    """What differs between the two beside the figures, then each configuration that both have.

    Raises ConfigError, in one line, where the two cannot be compared: another kind of source, or nothing in
    common.
    """
    if (a["source"]["kind"] == "live") != (b["source"]["kind"] == "live"):
        raise ConfigError("--compare: expected two records of files or two of cameras, got one of each")
    in_a, in_b = _by_key(a), _by_key(b)
    common = [key for key in in_a if key in in_b]
    if not common:
        raise ConfigError(
            "--compare: expected an engine with the same threads and precision in both, found none"
        )
    lines = [[*("runtime", "threads", "precision"), "A ms", "B ms", "B/A", "B is", *STEPS[1:], "fps", "MB"]]
    for key in common:
        one, other = in_a[key], in_b[key]
        whole = ratio(one, other)
        lines.append(
            [
                *(ENGINES[key[0]].title, str(key[1]), key[2]),
                f"{one['p50_ms']['end_to_end']:.2f}",
                f"{other['p50_ms']['end_to_end']:.2f}",
                f"{whole.value:.3f}",
                whole.verdict,
                *(f"{ratio(one, other, step).value:.3f}" for step in STEPS[1:]),
                f"{other['fps'] / one['fps']:.3f}",
                f"{other['peak_rss_mb'] / one['peak_rss_mb']:.3f}",
            ]
        )
    # What the figures depend on comes first: most surprises are explained by it.
    text = [*(f"differs: {line}" for line in differences(a, b)), *aligned(lines, left=3)]
    for name, left in (("A", in_a.keys() - common), ("B", in_b.keys() - common)):
        text += [
            f"only in {name}: {ENGINES[key[0]].title}, {key[1]} threads, {key[2]}" for key in sorted(left)
        ]
    return "\n".join([*text, _COMPARISON_LEGEND])


def differences(a: Record, b: Record) -> Iterator[str]:
    """One line for each thing that is not the same and that figures depend on."""
    names = sorted({*a["versions"], *b["versions"]})
    other_versions = [name for name in names if a["versions"].get(name) != b["versions"].get(name)]

    def versions(record: Record) -> str:
        """Those in which the two differ; an engine's version begins with the name of its package."""
        known = ((name, record["versions"].get(name, "none")) for name in other_versions)
        return ", ".join(v if name in ENGINES and v != "none" else f"{name} {v}" for name, v in known)

    facets: tuple[tuple[str, Callable[[Record], str]], ...] = (
        ("machine", lambda r: machine_text(r["machine"])),
        ("system", lambda r: f"{r['machine']['system']}, Linux {r['machine']['kernel']}"),
        ("governor", lambda r: ", ".join(r["machine"]["governor"]) or "unknown"),
        ("model", lambda r: f"{r['model']['name']} {r['model']['version']}"),
        ("source", lambda r: source_text(r["source"])),
        ("duration", lambda r: f"{r['settings']['duration_s']:g} s"),
        ("device", lambda r: ", ".join(sorted({row["device"] or "CPU" for row in r["results"]}))),
        ("versions", versions),
        ("throttled", lambda r: ", ".join(r["board"]["throttled"] or ["no"])),
        ("interrupted", lambda r: "yes" if r["interrupted"] else "no"),
    )
    for name, text in facets:
        if text(a) != text(b):
            yield f"{name}: {text(a)} -> {text(b)}"
    # What looks alike may still be another file: hashes decide, where the names do not.
    same_source = source_text(a["source"]) == source_text(b["source"])
    if same_source and a["source"]["sha256"] != b["source"]["sha256"]:
        yield "source: other images of the same sizes"
    if a["model"]["name"] == b["model"]["name"]:
        files = a["model"]["sha256"], b["model"]["sha256"]
        for name in sorted(files[0].keys() & files[1].keys()):
            if files[0][name] != files[1][name]:
                yield f"model: the {ENGINES[name].title} file has another content"


def _by_key(record: Record) -> dict[Key, Any]:
    return {(row["runtime"], row["threads"], row["precision"]): row for row in record["results"]}


# ---- the chart ---------------------------------------------------------------------------------------


def check_chart(path: Path) -> None:
    """Refuse what cannot be drawn, before anything is measured.

    Raises ConfigError for another suffix, MissingDependency without matplotlib.
    """
    if path.suffix.lower() not in CHARTS:
        raise ConfigError(
            f"{path}: expected a file name ending in {' or '.join(CHARTS)}, got {path.suffix!r}"
        )
    if find_spec("matplotlib") is None:
        raise MissingDependency.for_extra("--chart", "convert")


def draw_chart(record: Record, path: Path) -> None:
    """Draw where the time of a frame goes and how far its slow frames reach, as PNG or SVG by the suffix.

    The file is written whole or not at all. Raises what `check_chart` raises.
    """
    check_chart(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = record["results"]
    figure = Figure(figsize=(9.0, 1.8 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, which would look for a screen and keep the figure alive
    axes = figure.add_subplot()
    names = [
        f"{ENGINES[row['runtime']].title}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        for row in rows
    ]
    # 1. The steps' medians as one bar a row, end to end.
    left = [0.0] * len(rows)
    for step, colour in _COLOURS.items():
        widths = [row["p50_ms"][step] for row in rows]
        axes.barh(names, widths, left=left, color=colour, height=0.6, label=f"{step}, p50")
        left = [a + b for a, b in zip(left, widths, strict=True)]
    # 2. A line from the median of the whole to its 99th percentile.
    first, last = ([row[rank]["end_to_end"] for row in rows] for rank in ("p50_ms", "p99_ms"))
    axes.hlines(names, first, last, color="black", linewidth=0.8)
    for rank, mark in _MARKS.items():
        ends = [row[rank]["end_to_end"] for row in rows]
        label = f"end to end, {rank.removesuffix('_ms')}"
        axes.plot(ends, names, linestyle="", marker=mark, color="black", markersize=7, label=label)
    # 3. The first row on top, as in the table.
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("milliseconds a frame")
    model = f"{record['model']['name']} {record['model']['version']}"
    title = f"{model}: {source_text(record['source'])}\n{machine_text(record['machine'])}"
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    kind = path.suffix.lower()[1:]
    buffer = io.BytesIO()
    # Without a date in the SVG the same record gives the same file.
    figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    write_atomic(path, buffer.getvalue())
