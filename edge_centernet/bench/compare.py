"""Two records beside each other: ratios, whether they are beyond the spread of the rounds, and what else differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from edge_centernet.bench.record import Record, medians
from edge_centernet.bench.report import aligned, machine_text, source_text
from edge_centernet.errors import ConfigError
from edge_centernet.runtimes import ENGINES

SURE = 0.9  # of all pairs of a round of A and one of B, so many must point the same way
STEPS = ("end_to_end", "preprocess", "inference", "decode")

Key = tuple[str, int, str]  # runtime, threads, precision


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


def as_text(a: Record, b: Record) -> str:
    """What differs between the two beside the figures, then each configuration that both have.

    Raises ConfigError, in one line, where the two cannot be compared: another kind of source, or nothing in
    common.
    """
    common = _common(a, b)
    lines = [[*("runtime", "threads", "precision"), "A ms", "B ms", "B/A", "B is", *STEPS[1:], "fps", "MB"]]
    for key in common:
        one, other = _of(a)[key], _of(b)[key]
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
    text = [*(f"differs: {line}" for line in differences(a, b)), *aligned(lines, left=3)]
    for name, left in (("A", _of(a).keys() - common), ("B", _of(b).keys() - common)):
        text += [
            f"only in {name}: {ENGINES[key[0]].title}, {key[1]} threads, {key[2]}" for key in sorted(left)
        ]
    return "\n".join([*text, _LEGEND])


_LEGEND = (
    "B/A: of the medians end to end, then of each step, of fps and of memory. Slower or faster: in at least "
    f"{SURE:.0%}\nof all pairs of a round of A and one of B. Two runs of the same thing differ too: measure A twice."
)


def differences(a: Record, b: Record) -> Iterator[str]:
    """One line for each thing that is not the same and that figures depend on."""
    facets: tuple[tuple[str, Callable[[Record], str]], ...] = (
        ("machine", lambda r: machine_text(r["machine"])),
        ("system", lambda r: f"{r['machine']['system']}, Linux {r['machine']['kernel']}"),
        ("governor", lambda r: ", ".join(r["machine"]["governor"]) or "not told"),
        ("model", lambda r: f"{r['model']['name']} {r['model']['version']}"),
        ("source", lambda r: source_text(r["source"])),
        ("duration", lambda r: f"{r['settings']['duration_s']:g} s"),
        ("versions", lambda r: ", ".join(_others(r, a, b))),
        ("held back", lambda r: ", ".join(r["board"]["throttled"] or ["no"])),
        ("interrupted", lambda r: "yes" if r["interrupted"] else "no"),
    )
    for name, text in facets:
        if text(a) != text(b):
            yield f"{name}: {text(a)} -> {text(b)}"
    if a["source"]["sha256"] != b["source"]["sha256"] and source_text(a["source"]) == source_text(
        b["source"]
    ):
        yield "source: other pictures of the same sizes"
    files = a["model"]["sha256"], b["model"]["sha256"]
    same_name = a["model"]["name"] == b["model"]["name"]
    for name in sorted(files[0].keys() & files[1].keys()):
        if same_name and files[0][name] != files[1][name]:
            yield f"model: the {ENGINES[name].title} file has another content"


def _others(record: Record, a: Record, b: Record) -> Iterator[str]:
    """The versions in which the two differ, as one of them has them."""
    for name in sorted({*a["versions"], *b["versions"]}):
        if a["versions"].get(name) != b["versions"].get(name):
            version = record["versions"].get(name, "none")
            yield (
                version if name in ENGINES and version != "none" else f"{name} {version}"
            )  # an engine's has its name


def _common(a: Record, b: Record) -> list[Key]:
    kinds = {record["source"]["kind"] == "live" for record in (a, b)}
    if len(kinds) > 1:
        raise ConfigError("--compare: expected two records of files or two of cameras, got one of each")
    common = [key for key in _of(a) if key in _of(b)]
    if not common:
        raise ConfigError(
            "--compare: expected an engine with the same threads and precision in both, found none"
        )
    return common


def _of(record: Record) -> dict[Key, Any]:
    return {(row["runtime"], row["threads"], row["precision"]): row for row in record["results"]}
