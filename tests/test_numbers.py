"""Every measured number in README and docs comes from a raw record: scripts/check_numbers.py finds what does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import load_script

ROOT = Path(__file__).resolve().parents[1]


numbers = load_script("check_numbers")
REPORT = numbers.check(ROOT)


def test_every_number_in_readme_and_docs_is_what_its_record_gives() -> None:
    """No page differs from its records, and no number that looks measured has none; see scripts/check_numbers.py."""
    assert REPORT.problems == []


def test_the_pages_with_results_are_among_those_that_were_compared() -> None:
    """The check does not pass because it found nothing."""
    found = {one.page for one in REPORT.numbers}
    assert {"README.md", "docs/training.md", "docs/calibration.md", "docs/models/centernet-mbv2-320.md"} <= found


def test_each_record_names_a_command_that_is_in_the_repository() -> None:
    """Scripts and commands that docs/numbers/records.toml names exist."""
    commands = " ".join(one["command"] for one in numbers.register(ROOT)["record"].values())
    scripts = set(re.findall(r"scripts/[\w/.]+\w", commands))
    assert len(scripts) > 10
    assert [name for name in sorted(scripts) if not (ROOT / name).is_file()] == []


# ---- the check itself ------------------------------------------------------------------------------------------------

PAGE = """# Speed 9.9

It takes 12.5 ms
with 3 threads, six times as long as 0.25 of it. Retried after 5 s.

```sh
sleep 7.5
```
"""
NUMBERS = """
page = "README.md"
constants = ["after 5 s"]
statements = ["takes {speed.ms | .1f} ms with", "{ratio | word} times as long as {speed.part | .2f}"]
[records]
speed = "docs/benchmarks/speed.json"
[where]
ratio = "speed['all runs'][0] / 2"
"""
REGISTER = """
never = [{ what = "latency on a board", needs = "a board", command = "edge-centernet bench" }]
[machine.any]
what = "any computer"
[machine.moon]
what = "a computer on the moon"
flags = ["no_such_flag"]
[record."docs/benchmarks/speed.json"]
command = "scripts/bench FILE"
needs = "moon"
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one page and one record, as check_numbers sees it."""
    (tmp_path / "docs/numbers").mkdir(parents=True)
    (tmp_path / "docs/benchmarks").mkdir()
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs/numbers/README.toml").write_text(NUMBERS)
    (tmp_path / "docs/numbers/records.toml").write_text(REGISTER)
    record = {"ms": 12.46, "part": 0.25, "all runs": [12], "cpu": "Test CPU"}
    (tmp_path / "docs/benchmarks/speed.json").write_text(json.dumps(record))
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    numbers.read.cache_clear()
    numbers.register.cache_clear()
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    result = CliRunner().invoke(numbers.main, arguments)
    return result.exit_code, result.output


def test_a_page_that_says_what_its_records_give_passes(small: Path) -> None:
    """Three numbers, over a line end too; headings, code and constants are left alone; hardware is told."""
    code, told = run()
    assert code == 0, told
    assert "README.md:3\t12.5\tdocs/benchmarks/speed.json\tscripts/bench docs/benchmarks/speed.json\tmoon" in told
    assert "taken on: Test CPU; this machine would do: NO, needs a computer on the moon" in told
    assert "latency on a board: needs a board" in told
    assert "3 numbers from records" in told


def test_another_value_is_told_with_page_and_line(small: Path) -> None:
    """And put right by --write, which changes nothing else."""
    (small / "README.md").write_text(PAGE.replace("12.5", "12.9").replace("six", "two"))
    code, told = run("--quiet")
    assert code == 1
    assert "README.md:3: says 12.9, the record gives 12.5 (docs/benchmarks/speed.json)" in told
    assert "README.md:4: says two, the record gives six" in told
    assert run("--quiet", "--write")[0] == 0
    assert (small / "README.md").read_text() == PAGE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Retried", "It was 4.2 times as fast. Retried", "README.md:4: 4.2 looks measured and comes from no record"),
        ("Retried after 5 s.", "", "not needed, README.md has no such words any more: after 5 s"),
        ("It takes 12.5 ms", "It is quick", "README.md has no such words any more: takes {speed.ms | .1f} ms with"),
    ],
)
def test_a_page_that_changed_is_told(small: Path, old: str, new: str, message: str) -> None:
    """Numbers without a record, and phrases that are gone."""
    assert old in PAGE
    (small / "README.md").write_text(PAGE.replace(old, new))
    code, told = run("--quiet")
    assert code == 1
    assert message in told


def test_a_page_without_a_file_of_numbers_may_have_none(small: Path) -> None:
    """The name of the file to add is told."""
    (small / "docs/new.md").write_text("Found in 93 % of 1,000 runs.\n")
    told = run("--quiet")[1]
    assert "docs/new.md:1: 93 looks measured" in told
    assert "say in docs/numbers/new.toml" in told


def test_a_wrong_expression_is_told(small: Path) -> None:
    """With its name, and what the record has instead."""
    path = small / "docs/numbers/README.toml"
    path.write_text(NUMBERS.replace("speed.part", "speed.none"))
    assert "speed.none: AttributeError: expected one of ms, part, all runs, cpu, got none" in run("--quiet")[1]


def test_a_record_without_an_origin_is_told(small: Path) -> None:
    """Its command is missing in records.toml."""
    (small / "docs/numbers/records.toml").write_text(REGISTER.replace("speed.json", "other.json"))
    assert "expected the command that makes docs/benchmarks/speed.json, found none" in run("--quiet")[1]


def test_numbers_of_others_name_their_source(small: Path) -> None:
    """They are listed, not compared."""
    path = small / "docs/numbers/README.toml"
    path.write_text(NUMBERS.replace('["after 5 s"]', "[]") + '[quoted]\n"after 5 s" = "https://example.org"\n')
    code, told = run()
    assert code == 0, told
    assert "README.md:4\t5\tmeasured by others: https://example.org" in told


def test_an_unknown_page_is_refused(small: Path) -> None:
    """One line, exit code 2."""
    code, told = run("docs/none.md")
    assert code == 2
    assert "expected pages such as README.md" in told


@pytest.mark.parametrize(
    "text",
    ["AP50 of 0.604", "12 ms", "1,002 photos", "29 % more", "98.6%", "6 of 10", "2.2 times", "three times as",
     "| 115 |", "10 to 12 fps", "374 MB", "-0.069", "twice as fast", "0.3 MB", "after 106 s"],
)  # fmt: skip
def test_this_looks_measured(text: str) -> None:
    """Decimals, units, shares, thousands, table cells."""
    assert numbers.LOOKS_MEASURED.search(numbers.prose(text)), text


@pytest.mark.parametrize(
    "text",
    ["Python 3.10", "OpenVINO 2026.4.1", "320x320", "VOC 2007 val", "`--watch 30 s`", "INT8", "decision 0016",
     "1. First", "MobileNetV2 1.0 from ImageNet", "IoU 0.5", "[a](b-2.5.md)", "### 2.5 ms", "H.264", "#2703",
     "the 20 classes"],
)  # fmt: skip
def test_this_does_not_look_measured(text: str) -> None:
    """Versions, names, sizes of pictures, references, headings, code."""
    assert not numbers.LOOKS_MEASURED.search(numbers.prose(text)), text
