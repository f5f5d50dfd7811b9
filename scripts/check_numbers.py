"""Every measured number in README and docs, worked out again from the raw records in this repository.

    python scripts/check_numbers.py               # all pages; exit code 1 where a page and its records differ
    python scripts/check_numbers.py README.md     # this page only
    python scripts/check_numbers.py --write       # put what the records give into the pages

docs/numbers/ says where the numbers come from: one file for each page, docs/numbers/training.toml for docs/training.md:

    page = "docs/training.md"
    constants = ["after 5 s"]                     # phrases whose numbers were set, not measured
    sections = ["Options"]                        # headings below which nothing is measured
    statements = ["AP50 was {eval.AP50 | .3f}"]   # phrases whose numbers come from records
    [records]
    eval = "docs/benchmarks/NAME/eval.json"       # .json and .csv are read, anything else is text
    [where]
    rows = "eval.per_class"                       # short names, from records and the names before
    [quoted]
    "9.5 min" = "https://..."                     # measured by others

Between braces stands a Python expression over the records and FUNCTIONS, and how to write its value: a format, or
`word` (six). A record's parts are `record.key` or `record["any key"]`. Spaces match any white space, line ends too.

docs/numbers/records.toml says of each record which command makes it, on what it was made, and what that needs.
Numbers that look measured (LOOKS_MEASURED) and are in none of the lists are errors, and so are phrases that a page no
longer has.
Pages that a script writes from a record are written again and compared (GENERATED).
"""

from __future__ import annotations

import ast
import csv
import functools
import importlib.util
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from edge_centernet.files import write_atomic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "docs/numbers"
REGISTER = f"{FOLDER}/records.toml"

# ---- what looks measured ---------------------------------------------------------------------------------------------

# Not prose, or a name: nothing in there was measured. In this order; what one takes, the next does not see.
_VERSIONED = (
    "Python|Pythons|OpenVINO|glibc|systemd|JetPack|CUDA|TensorRT|Ubuntu|Debian|OpenCV|OpenSSH|QEMU|NumPy|Runtime|GPU|CMake|"
    "tflite-runtime|ai-edge-litert|ai-edge-quantizer|onnx2tf|NNCF|trackers|supervision|Directive|Rule|version|release|"
    "libgpiod|FFmpeg|GStreamer|Frigate|Assistant|MediaPipe|PyTorch|torch|MISRA|netplan|schema|MobileNetV2"
)
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
RULES = tuple(
    re.compile(rule, re.MULTILINE)
    for rule in (
        r"^( *)(```|~~~)[\s\S]*?^\1\2 *$",  # code blocks
        r"<!--[\s\S]*?-->|<[a-z/!][^>]*>",
        r"`[^`]+`",
        r"^#.*$",  # headings
        r"\]\([^)]*\)|https?://\S+",
        r"^\s*\d+\. ",  # numbered lists
        rf"\b(?:{_VERSIONED})`?\** v?\d[\d.]*(?:(?:,| and| or| to|/) \d+\.\d+)*",
        r"\b\d+\.\d+\.\d+[\w.]*",  # versions
        r"\d+ ?[x×] ?\d+(?: ?[x×] ?\d+)*",  # sizes of pictures and kernels
        r"(?<![\w.,])(?:19|20)\d\d(?!\w|,\d|\.\d)",  # years, and data sets called by their year
        r"#\d+|\b0\d{3}\b",  # issues, decisions
        r"\bIoU (?:of |>=? )?0\.\d+(?: to 0\.\d+)?",  # how a metric is defined
        r"\b[A-Za-z][\w/+]*?[-.]?\d[\w.\-]*",  # INT8, H.264, MobileNetV2
        r"\b(?:Rules?|Directives?|MISRA C:2012) \d[\d.]*",
    )
)
_UNITS = (
    r"%|°C|(?:ms|us|µs|s|min|h|fps|Hz|MB|GB|KB|kB|MiB|KiB|W|J|mJ|GOPS|bytes|[kMG]?B/s|percent|times|microseconds?|milliseconds?|"
    r"seconds?|minutes?|hours?|lines|images|photos|pictures|frames|results|detections|tests|cases|steps|megabytes|values|"
    r"people|crossings|runs|epochs?|parameters|mutants|objects|switches|operations|of(?: the)? \d+)\b"
)
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_RANGE = rf"(?:\s*(?:to|and|or|/|,|-)\s*{_NUMBER})*"
LOOKS_MEASURED = re.compile(
    rf"(?<![\w.])(?:[-+]?\d+(?:,\d{{3}})*\.\d+"  # a decimal
    rf"|\d{{1,3}}(?:,\d{{3}})+"  # thousands
    rf"|(?<=\| ){_NUMBER}(?= \|)"  # a table cell that is a number
    rf"|{_NUMBER}(?={_RANGE}\s+(?:{_UNITS})|%)"  # a number with a unit
    rf"|(?<=\d of ){_NUMBER})(?!\w)"
    rf"|\b(?:{'|'.join(_WORDS[2:])}|half)(?=\s+(?:percent|%|ms|times\s+(?:as|the|wider|\w+er|more|less))\b)"
    r"|\b(?:twice|thrice|halved|doubled)(?=\s+(?:as|the)\b)",
    re.IGNORECASE,
)


def prose(text: str) -> str:
    """`text` with everything that RULES take replaced by spaces: places and lines stay as they are."""
    for rule in RULES:
        text = rule.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return text


# ---- records ---------------------------------------------------------------------------------------------------------


class Node(dict[str, Any]):
    """An object of a record: its parts are attributes too, where no method of dict has the name."""

    def __getattr__(self, name: str) -> Any:
        """The part of that name."""
        if name in self:
            return self[name]
        raise AttributeError(f"expected one of {', '.join(self)}, got {name}")


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


@functools.cache
def read(path: Path) -> Any:
    """A record: .json as Nodes and lists, .csv as a list of Nodes with numbers as float, anything else as text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text, object_hook=Node)
    if path.suffix == ".csv":
        rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
        return [Node({key: _number(cell) for key, cell in row.items()}) for row in rows]
    return text


def find(text: str, pattern: str) -> float:
    """The first group of `pattern` in a text, as a number."""
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"expected {pattern!r} in the record, found none")
    return float(match[1].replace(",", ""))


def row(rows: list[Node], **key: Any) -> Node:
    """The one row of a table that has these values."""
    found = [one for one in rows if all(one.get(name) == value for name, value in key.items())]
    if len(found) != 1:
        raise ValueError(f"expected one row with {key}, found {len(found)}")
    return found[0]


def below(limit: float, *values: float) -> float:
    """What a page promises as an upper limit: `limit` as long as it holds, else the largest value."""
    return limit if max(values) < limit else max(values)


def above(limit: float, *values: float) -> float:
    """What a page promises as a lower limit: `limit` as long as it holds, else the smallest value."""
    return limit if min(values) > limit else min(values)


def to(step: float, value: float) -> float:
    """`value` to the nearest multiple of `step`, for "about" and "some"."""
    return round(value / step) * step


FUNCTIONS: dict[str, Any] = {
    "__builtins__": {},
    **{
        one.__name__: one for one in (abs, all, any, float, int, len, max, min, next, round, set, sorted, str, sum, zip)
    },
    **{one.__name__: one for one in (statistics.mean, statistics.median, find, row, below, above, to)},
    "count": re.findall,  # len(count(pattern, text))
    "lines": lambda text: len(text.splitlines()),
}

# ---- statements ------------------------------------------------------------------------------------------------------

_HOLE = re.compile(r"\{([^{}]+)\}")
_WORD = dict(enumerate(_WORDS))


def written(value: Any, form: str) -> str:
    """`value` as the page has it."""
    if form == "word":
        return _WORD[int(value)]
    return format(value, form) if form or not isinstance(value, float) else format(value, "g")


def _half_way(says: str, value: Any) -> bool:
    """Whether `value` lies exactly between what the page says and its neighbour: records are rounded already."""
    try:
        distance = abs(float(says.replace(",", "")) - value)
    except (TypeError, ValueError):
        return False
    decimals = len(says.partition(".")[2])
    return bool(abs(distance - 0.5 * 10**-decimals) < 1e-9)


@dataclass(frozen=True)
class Found:
    """One number of a page."""

    page: str
    line: int
    says: str
    gives: str
    records: tuple[str, ...]
    span: tuple[int, int]

    @property
    def wrong(self) -> bool:
        """Whether the page says something else than the record gives."""
        return self.says != self.gives


@dataclass
class Report:
    """What was found in the pages."""

    numbers: list[Found] = field(default_factory=list)
    quoted: list[tuple[str, int, str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _pattern(phrase: str) -> str:
    """`phrase` as a regular expression in which each space is any white space."""
    return r"\s+".join(re.escape(part) for part in phrase.split())


def _template(statement: str) -> tuple[re.Pattern[str], list[tuple[str, str]]]:
    """(what finds the statement in a page, with a group for each number; expression and format of each)."""
    pattern, holes, end = "", [], 0
    for hole in _HOLE.finditer(statement):
        expression, _, form = hole[1].rpartition("|") if "|" in hole[1] else (hole[1], "", "")
        holes.append((expression.strip(), form.strip()))
        number = r"([A-Za-z][\w-]*)" if form.strip() in ("word", "s") else rf"({_NUMBER})"
        pattern += _literal(statement[end : hole.start()]) + number
        end = hole.end()
    return re.compile(r"(?<![\d.])" + pattern + _literal(statement[end:])), holes


def _literal(text: str) -> str:
    """Part of a statement, its white space at the ends included."""
    before = r"\s+" if text[:1].isspace() else ""
    after = r"\s+" if text[-1:].isspace() and text.strip() else ""
    return before + _pattern(text) + after


def _names(said: dict[str, Any], root: Path) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """What the names of a file in docs/numbers stand for, and the records that each rests on."""
    values: dict[str, Any] = {name: read(root / path) for name, path in said.get("records", {}).items()}
    used = {name: (path,) for name, path in said.get("records", {}).items()}
    for name, expression in said.get("where", {}).items():
        values[name] = eval(expression, {**FUNCTIONS, **values})
        used[name] = _records(expression, used)
    return values, used


def _records(expression: str, used: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The records that an expression rests on."""
    names = {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}
    return tuple(dict.fromkeys(record for name in used if name in names for record in used[name]))


def check_page(source: Path, root: Path) -> Iterator[Found | tuple[str, int, str, str] | str]:
    """Numbers, quoted numbers, and problems as text, of the page that `source` (docs/numbers/...) is about."""
    said = tomllib.loads(source.read_text(encoding="utf-8"))
    where = source.relative_to(root).as_posix()
    page, text = said["page"], (root / said["page"]).read_text(encoding="utf-8")
    try:
        values, used = _names(said, root)
    except Exception as error:  # whatever a wrong expression raises
        yield f"{where}: {type(error).__name__}: {error}"
        return
    todo = [(m.start(), m.end()) for m in LOOKS_MEASURED.finditer(prose(text))]

    for statement in said.get("statements", []):
        pattern, holes = _template(statement)
        matches = list(pattern.finditer(text))
        if not matches:
            yield f"{where}: {page} has no such words any more: {statement.strip()[:100]}"
        for match in matches:
            for group, (expression, form) in enumerate(holes, 1):
                try:
                    value = eval(expression, {**FUNCTIONS, **values})
                    gives = match[group] if _half_way(match[group], value) else written(value, form)
                except Exception as error:  # whatever a wrong expression raises
                    yield f"{where}: {expression}: {type(error).__name__}: {error}"
                    continue
                line = text.count("\n", 0, match.start(group)) + 1
                yield Found(page, line, match[group], gives, _records(expression, used), match.span(group))
                todo = [one for one in todo if one[1] <= match.start(group) or one[0] >= match.end(group)]

    for heading in said.get("sections", []):
        match = re.search(rf"^(#+) {re.escape(heading)}$[\s\S]*?(?=^#{{1,3}} |\Z)", text, re.MULTILINE)
        inside = [one for one in todo if match and match.start() <= one[0] < match.end()]
        if not inside:
            yield f"{where}: not needed, no such section, or no number in it: {heading}"
        todo = [one for one in todo if one not in inside]

    phrases = [(phrase, "") for phrase in said.get("constants", [])] + list(said.get("quoted", {}).items())
    for phrase, origin in phrases:
        spans = [m.span() for m in re.finditer(_pattern(phrase), text)]
        inside = [one for one in todo if any(a <= one[0] and one[1] <= b for a, b in spans)]
        if not inside:
            why = "its numbers are not taken for measured ones" if spans else f"{page} has no such words any more"
            yield f"{where}: not needed, {why}: {phrase[:100]}"
        if origin:
            yield from ((page, text.count("\n", 0, a) + 1, text[a:b], origin) for a, b in inside)
        todo = [one for one in todo if one not in inside]
    yield from _unexplained(page, text, todo, where)


def _unexplained(page: str, text: str, todo: list[tuple[int, int]], where: str) -> Iterator[str]:
    for start, end in todo:
        around = " ".join(text[max(0, start - 40) : end + 30].split())
        yield (
            f"{page}:{text.count(chr(10), 0, start) + 1}: {text[start:end]} looks measured and comes from no record; "
            f"say in {where} where it comes from: ...{around}..."
        )


# ---- pages that scripts write ----------------------------------------------------------------------------------------


def _script(name: str) -> ModuleType:
    """scripts/NAME.py as a module."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.append(str(ROOT / "scripts"))  # scripts import their neighbours
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _card(root: Path, page: Path) -> str:
    text: str = _script("model_card").render(page.stem, root)
    return text


def _card_elsewhere(root: Path, page: Path) -> str:
    """The card of a model whose files are not in this repository: the hashes in its records cannot be compared."""
    card = _script("model_card")
    results = root / "docs/benchmarks" / page.stem
    card._same = lambda *_: None
    card.sha256 = lambda _: read(results / "int8-speed-x86_64.json").model_sha256
    text: str = card.render(page.stem, root, root / "no such folder")
    files = re.search(r"^- \*\*Files\*\*.*$", (root / page).read_text(encoding="utf-8"), re.MULTILINE)
    return re.sub(r"^- \*\*Files\*\*.*$", files[0] if files else "", text, flags=re.MULTILINE)


def _tracking(root: Path, page: Path) -> str:
    text: str = _script("bench_tracking").page(read(root / page.with_suffix(".json")))
    return text


def _wheels(root: Path, page: Path) -> str:
    text: str = _script("wheel_matrix").table(read(root / page.with_suffix(".json")))
    return text


def _limits(root: Path, page: Path) -> str:
    text: str = _script("roofline").page(
        (root / page).read_text(encoding="utf-8"), read(root / "docs/benchmarks/roofline-x86_64.json")
    )
    return text


# Page -> (what writes it anew from its records, those records, whether --write may write it).
GENERATED: dict[str, tuple[Callable[[Path, Path], str], str]] = {
    "docs/models/centernet-mbv2-320.md": (_card, "docs/benchmarks/centernet-mbv2-320/"),
    "docs/models/centernet-nano-256.md": (_card, "docs/benchmarks/centernet-nano-256/"),
    "docs/models/centernet-r18.md": (_card_elsewhere, "docs/benchmarks/centernet-r18/"),
    "docs/benchmarks/tracking-pets09.md": (_tracking, "docs/benchmarks/tracking-pets09.json"),
    "docs/limits.md": (_limits, "docs/benchmarks/roofline-x86_64.json"),
    "docs/benchmarks/wheels.md": (_wheels, "docs/benchmarks/wheels.json"),
}


def check_generated(name: str, root: Path) -> Iterator[Found | str]:
    """The numbers of a page that a script wrote, if it would write the same again."""
    make, record = GENERATED[name]
    text = (root / name).read_text(encoding="utf-8")
    try:
        again = make(root, Path(name))
    except Exception as error:  # whatever stops its script
        yield f"{name}: cannot be written again: {type(error).__name__}: {error}"
        return
    if text.strip() != again.strip():
        pairs = zip(text.splitlines(), again.splitlines(), strict=False)
        line, says, gives = next((n, a, b) for n, (a, b) in enumerate(pairs, 1) if a != b)
        yield f"{name}:{line}: says {says!r}, its script writes {gives!r}; run the script again"
        return
    for match in LOOKS_MEASURED.finditer(prose(text)):
        line = text.count("\n", 0, match.start()) + 1
        yield Found(name, line, match[0], match[0], (record,), match.span())


# ---- all pages -------------------------------------------------------------------------------------------------------


def pages(root: Path) -> list[str]:
    """README, CHANGELOG and everything in docs."""
    found = [
        root / "README.md",
        root / "CHANGELOG.md",
        root / "CONTRIBUTING.md",
        *sorted((root / "docs").rglob("*.md")),
    ]
    return [path.relative_to(root).as_posix() for path in found if path.is_file()]


def sources(root: Path) -> dict[str, Path]:
    """Page -> its file in docs/numbers."""
    found = sorted((root / FOLDER).rglob("*.toml"))
    by_page = {tomllib.loads(path.read_text(encoding="utf-8")).get("page"): path for path in found}
    return {page: path for page, path in by_page.items() if page}


def check(root: Path, only: tuple[str, ...] = ()) -> Report:
    """All numbers of all pages, or of `only` these."""
    report, known = Report(), sources(root)
    report.problems += [f"{path}: no page {page}" for page, path in known.items() if not (root / page).is_file()]
    for page in pages(root):
        if only and page not in only:
            continue
        results: Iterator[Any]
        if page in GENERATED:
            results = check_generated(page, root)
        elif page in known:
            results = check_page(known[page], root)
        else:
            text = (root / page).read_text(encoding="utf-8")
            todo = [match.span() for match in LOOKS_MEASURED.finditer(prose(text))]
            name = page.removeprefix("docs/").removesuffix(".md")
            results = _unexplained(page, text, todo, f"{FOLDER}/{name}.toml")
        for one in results:
            if isinstance(one, Found):
                report.numbers.append(one)
            elif isinstance(one, str):
                report.problems.append(one)
            else:
                report.quoted.append(one)
    report.problems += [
        f"{one.page}:{one.line}: says {one.says}, the record gives {one.gives} ({', '.join(one.records) or 'computed'})"
        for one in report.numbers
        if one.wrong
    ]
    report.problems += [
        f"{REGISTER}: expected the command that makes {record}, found none"
        for record in sorted({record for one in report.numbers for record in one.records})
        if origin(record, root) is None
    ]
    return report


def rewrite(root: Path, numbers: list[Found]) -> list[str]:
    """Put what the records give into the pages; the pages that were changed."""
    changed = sorted({one.page for one in numbers if one.wrong})
    for page in changed:
        text = (root / page).read_text(encoding="utf-8")
        for one in sorted((n for n in numbers if n.page == page), key=lambda n: n.span, reverse=True):
            text = text[: one.span[0]] + one.gives + text[one.span[1] :]
        write_atomic(root / page, text)
    return changed


# ---- where records come from -----------------------------------------------------------------------------------------


@functools.cache
def register(root: Path) -> dict[str, Any]:
    """docs/numbers/records.toml."""
    return tomllib.loads((root / REGISTER).read_text(encoding="utf-8"))


def origin(record: str, root: Path) -> dict[str, str] | None:
    """What the register says of a record: command, needs, on. Files that are no records are the source themselves."""
    for pattern, one in register(root)["record"].items():
        if fnmatch(record, pattern):
            name = Path(record).name if record.endswith("/") else Path(record).parent.name
            command = re.sub(r"\bNAME\b", name, re.sub(r"\bFILE\b", record, one["command"]))
            return {**one, "command": command}
    if not record.startswith("docs/benchmarks/"):
        return {"command": "none: the repository's own file", "needs": "any"}
    return None


def taken_on(record: str, root: Path) -> str:
    """The processor that a record names, or what the register says."""
    one = origin(record, root) or {}
    content = read(root / record) if record.endswith(".json") else None
    if isinstance(content, dict):
        machine = content.get("machine")
        cpu = content.get("cpu") or (machine.get("cpu") if isinstance(machine, dict) else machine)
        if isinstance(cpu, str):
            return cpu
    return one.get("on", "not told")


def here(needs: str, root: Path) -> bool:
    """Whether this machine has what a record needs to be made again."""
    machine = register(root)["machine"][needs]
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    except OSError:
        flags = set()
    fits = machine.get("arch", platform.machine()) == platform.machine()
    return bool(
        fits
        and all(flags & set(either.split("|")) for either in machine.get("flags", ()))
        and not set(machine.get("without", ())) & flags
        and (not machine.get("root") or os.geteuid() == 0)
    )


def _listing(report: Report, root: Path) -> Iterator[str]:
    """Number, page, record, script, hardware: a line each."""
    for one in report.numbers:
        origins = [origin(record, root) or {} for record in one.records]
        scripts = ", ".join(dict.fromkeys(o.get("command", "?") for o in origins))
        needs = ", ".join(dict.fromkeys(o.get("needs", "?") for o in origins))
        yield f"{one.page}:{one.line}\t{one.gives}\t{', '.join(one.records) or 'arithmetic'}\t{scripts}\t{needs}"
    for page, line, says, source in report.quoted:
        yield f"{page}:{line}\t{says}\tmeasured by others: {source}\t\t"


def _summary(report: Report, root: Path) -> Iterator[str]:
    """Each record once: how to make it again, where it was made, whether this machine could."""
    machines = register(root)["machine"]
    used = sorted({record for one in report.numbers for record in one.records if record.startswith("docs/benchmarks/")})
    yield "Raw records, and how to make them again"
    for record in used:
        one = origin(record, root) or {"command": "?", "needs": "any"}
        count = sum(record in number.records for number in report.numbers)
        can = "yes" if here(one["needs"], root) else "NO, needs " + machines[one["needs"]]["what"]
        yield f"  {record}: {count} number{'s'[: count != 1]}"
        yield f"      {one['command']}"
        yield f"      taken on: {taken_on(record, root)}; this machine would do: {can}"
    elsewhere = [record for record in used if not here((origin(record, root) or {"needs": "any"})["needs"], root)]
    can_be = f"{len(used) - len(elsewhere)} of {len(used)} records could be made on this machine"
    yield f"{can_be}; other hardware is needed for"
    yield from (f"  {record}" for record in elsewhere)
    yield "Never measured"
    for one in register(root)["never"]:
        yield f"  {one['what']}: needs {one['needs']}; then: {one['command']}"


@click.command()
@click.argument("page", nargs=-1)
@click.option("--write", is_flag=True, help="Put what the records give into the pages.")
@click.option("--quiet", is_flag=True, help="Only what is wrong.")
def main(page: tuple[str, ...], write: bool, quiet: bool) -> None:
    """Work every number in README and docs out again from the raw records, and compare."""
    unknown = set(page) - set(pages(ROOT))
    if unknown:
        click.echo(f"Error: expected pages such as README.md or docs/training.md, got {', '.join(unknown)}", err=True)
        sys.exit(2)
    report = check(ROOT, page)
    if write and any(one.wrong for one in report.numbers):
        click.echo("\n".join(f"{name}: rewritten" for name in rewrite(ROOT, report.numbers)), err=True)
        report = check(ROOT, page)
    if not quiet:
        click.echo("\n".join([*_listing(report, ROOT), "", *_summary(report, ROOT), ""]))
    click.echo("\n".join(report.problems), err=True, nl=bool(report.problems))
    told = (
        f"{len(report.numbers)} numbers from records, {len(report.quoted)} of others, {len(report.problems)} problems"
    )
    click.echo(told, err=True)
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
