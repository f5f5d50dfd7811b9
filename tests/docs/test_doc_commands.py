"""Commands of README and the documentation are those of the command line; settings in them are taken.

Nothing is run here: README's commands run in tests/test_docs.py, the tutorial's in tests/tutorial.
"""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest
from doc_pages import ROOT, SHELLS, Block, blocks, complaint, inline_code, own_commands, pages

from edge_centernet.cli.detect import command as detect
from edge_centernet.tracking.line_counter import parse_line
from edge_centernet.tracking.rules import parse_rule
from edge_centernet.tracking.zone_counter import parse_zone

BLOCKS = blocks()


def of(*languages: str) -> list[Block]:
    """The blocks of these languages."""
    return [block for block in BLOCKS if block.language in languages]


def test_commands_in_shell_blocks_are_understood() -> None:
    """Command, options and values of every `edge-centernet`; and there are many."""
    found = [
        (block.name, words, complaint(words)) for block in of(*SHELLS) for words in own_commands(block.script)
    ]
    assert len(found) > 50
    assert [(name, words, said) for name, words, said in found if said] == []


def test_commands_in_running_text_are_understood() -> None:
    """`edge-centernet ...` in a sentence: the command and its options exist, its values are acceptable."""
    wrong = []
    for where, code in inline_code():
        if match := re.match(r"(?:sudo )?edge-centernet (.+)", code):
            said = complaint(shlex.split(match[1]), whole=False)
            wrong += [(where, code, said)] if said else []
    assert wrong == []


def test_extras_in_the_documentation_exist() -> None:
    """Every `pip install 'edge-centernet[...]'` asks for extras that setup.cfg has."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    asked = {
        name.strip()
        for group in re.findall(r"(?:edge-centernet|')\.?\[([\w, -]+)\]'", text)
        for name in group.split(",")
    }
    assert {"tflite", "train"} <= asked <= set(config["options.extras_require"])


def test_scripts_in_the_documentation_have_the_options() -> None:
    """Every scripts/NAME of the pages is there, and each option given to it stands in its source."""
    wrong = []
    for where, code in [*inline_code(), *((block.name, block.script) for block in of(*SHELLS))]:
        for name, options in re.findall(
            r"(?<![\w/])(scripts/[\w/.-]*\w|tests/c/\w+\.(?:sh|py))((?: [^\n`;&|]*)?)", code
        ):
            path = ROOT / name
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if name.endswith("test_devices.sh"):
                text += (ROOT / "scripts/devices/stages.py").read_text(encoding="utf-8")
            missing = [option for option in re.findall(r"(?<!\S)--[\w-]+", options) if option not in text]
            wrong += [(where, name, missing)] if missing or not path.exists() else []
    assert wrong == []


@pytest.mark.parametrize("block", [pytest.param(one, id=one.name) for one in of("toml")])
def test_toml_block_is_a_configuration_of_detect(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`detect --config` reads it, every name and value, and the lines, zones and rules in it."""
    for name in re.findall(r"\$\{(\w+)\}", block.text):
        monkeypatch.setenv(name, "a secret")
    (tmp_path / "x.toml").write_text(block.text)
    with detect.make_context("detect", ["--config", str(tmp_path / "x.toml")]) as context:
        for line in context.params["count_line"]:
            parse_line(line)
        for zone in context.params["zone"]:
            parse_zone(zone)
        for rule in context.params["rule"]:
            parse_rule(rule)
