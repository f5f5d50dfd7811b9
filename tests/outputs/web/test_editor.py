"""What the page changes: who may, what is counted of kept paths, what is applied, what the file says."""

from __future__ import annotations

import http.client
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shop

from edge_centernet.camera_config import ConfigFile, read_config
from edge_centernet.errors import ConfigError
from edge_centernet.outputs.web.config_file import rewrite
from edge_centernet.outputs.web.editor import Editor, recount
from edge_centernet.outputs.web.server import WebServer
from edge_centernet.tracking.line_counter import Line, parse_line
from edge_centernet.tracking.rules import parse_rule
from edge_centernet.tracking.scene import Scene, SceneOptions
from edge_centernet.tracking.zone_counter import parse_zone

DOOR = {"name": "door", "from": [shop.DOOR_X, 0.0], "to": [shop.DOOR_X, 1.0]}
FILE = """\
# the shop
camera = "0"  # by the window

# where people come in
[[line]]
name = "door"   # the front one
from = [0.3, 0]   # top
to = [0.3, 1]

# not used since May

# to the yard
[[line]]
from = [320, 0]
to = [
  320,  # pixels
  360,
]

[[zone]]
name = "till"
points = [[0.5, 0.5], [0.7, 0.5], [0.7, 0.7]]
# the end
"""


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A shop without lines; looking needs no token."""
    with shop.open_shop() as opened:
        end = time.monotonic() + 10
        while opened.views[0].latest is None and time.monotonic() < end:
            time.sleep(0.02)
        yield opened


def send(
    server: WebServer, path: str, body: Any = None, headers: dict[str, str] | None = None, **given: str
) -> tuple[int, Any]:
    """Status and body of a POST with JSON, or of a GET without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    data = None if body is None else json.dumps(body)
    head = {"Content-Type": "application/json"} if data else {}
    try:
        connection.request(
            given.get("method", "POST" if data else "GET"), path, data, {**head, **(headers or {})}
        )
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text[:1] in b"{[" else text.decode()
    finally:
        connection.close()


def bearer(server: WebServer) -> dict[str, str]:
    """What a program shows."""
    return {"Authorization": f"Bearer {server.guard.secret}"}


# ---- who may change something ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/scene.json", "/reset.json"])
def test_a_change_needs_the_token_also_on_this_computer(server: WebServer, path: str) -> None:
    """In a header, as itself or as the key that the page gets for it; a cookie alone is not enough."""
    body = {"line": [DOOR]}
    assert send(server, path, body)[0] == 403
    assert send(server, path, body, {"Authorization": "Bearer wrong token"})[0] == 403
    cookie = {"Cookie": f"edge_centernet_{server.port}={server.guard.cookie}"}
    assert send(server, path, body, cookie)[0] == 403
    assert send(server, "/scene.json")[1]["key"] is None
    key = send(server, "/scene.json", headers=cookie)[1]["key"]
    assert send(server, path, body, {**cookie, "X-Edge-Centernet-Key": key + "0"})[0] == 403
    assert send(server, "/scene.json")[1]["line"] == []
    assert send(server, path, body, {**cookie, "X-Edge-Centernet-Key": key})[0] == 200
    assert send(server, path, body, bearer(server))[0] == 200


def test_a_page_of_another_site_changes_nothing(server: WebServer) -> None:
    """Not with another origin, not as a form, not by a GET, not under another name of this computer."""
    owner = bearer(server)
    body = {"line": [DOOR]}
    own = f"http://127.0.0.1:{server.port}"
    refused = [
        send(server, "/scene.json", body, {**owner, "Origin": "http://evil.example"})[0],
        send(server, "/scene.json", body, {**owner, "Origin": "null"})[0],
        send(server, "/scene.json", body, {**owner, "Origin": f"{own}0"})[0],
        send(server, "/scene.json", body, {**owner, "Content-Type": "text/plain"})[0],
        send(server, "/scene.json", body, {**owner, "Host": "evil.example"})[0],
        send(server, "/count.json", body, {"Origin": "http://evil.example"})[0],
        send(server, "/reset.json", headers=owner)[0],
        send(server, "/scene.json", headers=owner, method="PUT")[0],
    ]
    assert refused == [403, 403, 403, 415, 403, 403, 405, 405]
    assert send(server, "/scene.json")[1]["line"] == []
    assert send(server, "/scene.json", body, {**owner, "Origin": own})[0] == 200


def test_what_is_no_json_is_told_what_was_expected(server: WebServer) -> None:
    """Whoever forgot the header, as curl does, reads which."""
    assert send(server, "/reset.json", {}, {**bearer(server), "Content-Type": "text/plain"}) == (
        415,
        "415: expected the header Content-Type: application/json, and JSON\n",
    )


def test_wrong_tokens_for_a_change_are_limited_like_others(server: WebServer) -> None:
    """After ten different ones the right one is not looked at either, for a minute."""
    for number in range(10):
        assert send(server, "/reset.json", {}, {"Authorization": f"Bearer guess {number}"})[0] == 403
    assert send(server, "/reset.json", {}, bearer(server))[0] == 403
    assert send(server, "/state.json")[0] == 200  # looking needs none


def test_what_is_no_scene_is_one_line(server: WebServer) -> None:
    """The page shows it; nothing is changed."""
    cross = [[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]]
    for body, said in [
        ({"line": [{**DOOR, "to": [1.5, 1]}]}, "expected points inside the picture"),
        ({"line": [{**DOOR, "to": ["x", 1]}]}, "expected numbers"),
        ({"line": [{**DOOR, "more": 1}]}, "unknown more"),
        ({"line": "door"}, "expected lists of tables"),
        ({"lines": [DOOR]}, "unknown lines; expected line, zone and room"),
        ({"line": [DOOR, {**DOOR, "to": [0.4, 1]}]}, "got 'door' twice"),
        ({"zone": [{"name": "z", "points": cross}]}, "edges that do not cross"),
        ({"zone": [{"name": "z", "points": cross * 100}]}, "at most 64 corners"),
        ({"room": [{"name": "r", "lines": ["door"]}]}, "got 'door'"),
    ]:
        status, answer = send(server, "/scene.json", body, bearer(server))
        assert (status, said in answer["error"]) == (422, True), answer
    assert send(server, "/scene.json", {"line": ["x" * 70_000]}, bearer(server))[0] == 413
    assert send(server, "/scene.json", [], bearer(server))[0] == 400
    assert send(server, "/scene.json")[1]["version"] == 0


# ---- what it does --------------------------------------------------------------------------------


def test_what_is_drawn_is_counted_from_the_next_frame_on(server: WebServer) -> None:
    """People who pass are counted there; a line that stays counts on, a reset begins at 0."""

    def counts() -> dict[str, int]:
        lines = send(server, "/state.json")[1].get("lines", [])
        return {line["name"]: line["in"] + line["out"] for line in lines}

    def inside() -> int:
        rooms = send(server, "/state.json")[1].get("rooms", [])
        return max((room["inside"] for room in rooms if room["inside"] > 30), default=0)

    def soon(name: str) -> int:
        end = time.monotonic() + 20
        while not counts().get(name) and time.monotonic() < end:
            time.sleep(0.05)
        return counts()[name]

    owner = bearer(server)
    middle = {"name": "middle", "from": [0.5, 0.0], "to": [0.5, 1.0]}
    send(server, "/scene.json", {"line": [middle]}, owner)
    first = soon("middle")
    assert first >= 1
    renamed = {**middle, "name": "aisle", "was": "middle"}
    send(server, "/scene.json", {"line": [renamed, DOOR]}, owner)
    assert soon("aisle") >= first
    assert counts().keys() == {"aisle", "door"}
    assert send(server, "/state.json")[1]["places"] == 2
    send(server, "/scene.json", {"zone": []}, owner)  # lines that are left out stay
    assert send(server, "/scene.json")[1]["line"] == [{**middle, "name": "aisle"}, DOOR]
    room = {"name": "hall", "lines": ["door"]}
    send(server, "/scene.json", {"line": [renamed, DOOR], "room": [room]}, owner)
    end = time.monotonic() + 10
    while "rooms" not in send(server, "/state.json")[1] and time.monotonic() < end:
        time.sleep(0.02)
    assert send(server, "/reset.json", {"room": "hall", "inside": 70}, owner)[0] == 200
    assert send(server, "/reset.json", {"room": "attic", "inside": 1}, owner)[0] == 422
    end = time.monotonic() + 10
    while not inside() and time.monotonic() < end:
        time.sleep(0.02)
    assert inside() >= 60  # some may have left since
    send(server, "/reset.json", {}, owner)
    end = time.monotonic() + 5
    while counts()["aisle"] >= first and time.monotonic() < end:
        time.sleep(0.02)
    assert counts()["aisle"] < first


def test_kept_paths_are_counted_as_often_as_people_passed(tmp_path: Path) -> None:
    """Of the last hour, both ways, and turned round with the line."""
    shop.fill(tmp_path / "shop.db", time.time(), paths=50)
    inward, outward = shop.crossings(shop.walkers(3300.0, every=66.0)[-50:], shop.DOOR_X)
    up, down = Line("up", (0.3, 1.0), (0.3, 0.0), True), Line("down", (0.3, 0.0), (0.3, 1.0), True)
    zone = parse_zone("all=0,0,1,0,1,1,0,1")
    told = recount(tmp_path / "shop.db", [up, down], [zone], shop.SIZE)
    assert [(line["in"], line["out"]) for line in told["line"]] == [(inward, outward), (outward, inward)]
    assert (told["zone"][0]["entered"], told["zone"][0]["inside"]) == (50, 0)
    assert (told["paths"], told["minutes"]) == (50, 60)


# ---- the file ------------------------------------------------------------------------------------


def editor(config: Path, camera: int | None = None) -> Editor:
    """Of a camera that was started with this file."""
    given = read_config(config)
    if camera is not None:
        given = {**given, **given["camera"][camera]}
    scene = SceneOptions(
        lines=tuple(parse_line(text, i) for i, text in enumerate(given.get("count_line", []), 1)),
        zones=tuple(parse_zone(text, i) for i, text in enumerate(given.get("zone", []), 1)),
        rules=tuple(parse_rule(text, i) for i, text in enumerate(given.get("rule", []), 1)),
    )
    return Editor(
        scene, lambda changed: None, Scene(scene, 0.5, shop.CLASSES), config=ConfigFile(config, camera)
    )


def test_saving_changes_what_was_changed_and_nothing_else(tmp_path: Path) -> None:
    """Comments, order and spelling stay; pixels stay pixels; the old file is kept, as private as before."""
    config = tmp_path / "shop.toml"
    config.write_text(FILE)
    config.chmod(0o600)
    tool = editor(config)
    tables = tool.tables((640, 360))
    assert [line["name"] for line in tables["line"]] == ["door", "line 2"]
    assert tool.change(tables, (640, 360)) == {"saved": True, "file": "shop.toml", "backup": "shop.toml.bak"}
    # The line without a name gets the one that it had by its place.
    named = FILE.replace("  360,\n]\n", '  360,\n]\nname = "line 2"\n')
    assert config.read_text() == named
    tables["line"][0] |= {"name": "front", "was": "door", "to": [0.35, 1.0]}
    tables["zone"] = [{"name": "new", "points": [[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]}]
    tables["room"] = [{"name": "shop", "lines": ["front", "-line 2"], "reset": "04:00"}]
    assert tool.change(tables, (640, 360))["saved"]
    wanted = named.replace('"door"', '"front"').replace("to = [0.3, 1]", "to = [0.35, 1.0]")
    assert config.read_text() == wanted[: wanted.index("[[zone]]")] + (
        '# the end\n\n[[zone]]\nname = "new"\npoints = [[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]\n\n'
        '[[room]]\nname = "shop"\nlines = ["front", "-line 2"]\nreset = "04:00"\n'
    )
    assert (tmp_path / "shop.toml.bak").read_text() == named
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert read_config(config)["room"] == ["shop=front,-line 2;reset=04:00"]


def test_of_several_cameras_each_has_its_own_tables(tmp_path: Path) -> None:
    """What one camera's page saves stands in its own [[camera]], before the next; the others' stay."""
    config = tmp_path / "shop.toml"
    config.write_text(
        '[[camera]]\nname = "a"\ncamera = "0"\n\n[[camera.line]]\nname = "door"  # left\nfrom = [0, 0]\n'
        'to = [1, 1]\n\n# the yard\n[[camera]]\nname = "b"\ncamera = "1"\n'
    )
    first, second = editor(config, 0), editor(config, 1)
    tables = first.tables((640, 360))
    tables["line"] = [{**tables["line"][0], "name": "gate", "was": "door"}, DOOR]
    assert first.change(tables, (640, 360))["saved"]
    assert second.change({"line": [DOOR]}, (640, 360))["saved"]
    door = 'name = "door"\nfrom = [0.3, 0.0]\nto = [0.3, 1.0]\n'
    assert config.read_text() == (
        '[[camera]]\nname = "a"\ncamera = "0"\n\n[[camera.line]]\nname = "gate"  # left\nfrom = [0, 0]\n'
        f'to = [1, 1]\n\n[[camera.line]]\n{door}\n# the yard\n[[camera]]\nname = "b"\ncamera = "1"\n\n'
        f"[[camera.line]]\n{door}"
    )
    cameras = read_config(config)["camera"]
    assert [one["count_line"] for one in cameras] == [
        ["gate=0,0,1,1", "door=0.3,0.0,0.3,1.0"],
        ["door=0.3,0.0,0.3,1.0"],
    ]


def test_a_rule_goes_with_its_zone_to_a_new_name(tmp_path: Path) -> None:
    """While it runs and in the file; the zone is a queue still, by the seconds that it had."""
    config = tmp_path / "shop.toml"
    rule = '\n[[rule]]\nname = "busy"  # call a colleague\nkind = "queue"\nwhere = "{}"\nlimit = 3\n'
    config.write_text(FILE.replace("0.7]]", "0.7]]\nqueue = 5") + rule.format("till"))
    tool = editor(config)
    tables = tool.tables((640, 360))
    assert tables["zone"][0]["queue"] == 5
    tables["zone"][0] |= {"name": "desk", "was": "till"}
    assert tool.change(tables, (640, 360))["saved"]
    assert [one.where for one in tool.scene.rules] == ["desk"]
    text = config.read_text()
    assert text.endswith(rule.format("desk"))
    assert 'name = "desk"\npoints = [[0.5, 0.5], [0.7, 0.5], [0.7, 0.7]]\nqueue = 5\n# the end\n' in text


def test_a_zone_to_ignore_is_kept_in_the_file(tmp_path: Path) -> None:
    """A till that becomes one gets the word, and loses it again."""
    config = tmp_path / "shop.toml"
    config.write_text(FILE)
    tool = editor(config)
    tables = tool.tables((640, 360))
    tables["zone"][0] |= {"ignore": True, "was": "till"}
    assert tool.change(tables, (640, 360))["saved"]
    assert [one.ignore for one in tool.scene.zones] == [True]
    assert read_config(config)["zone"] == ["till=0.5,0.5,0.7,0.5,0.7,0.7;ignore"]
    tables = tool.tables((640, 360))
    assert tables["zone"][0].pop("ignore")
    assert tool.change(tables, (640, 360))["saved"]
    assert read_config(config)["zone"] == ["till=0.5,0.5,0.7,0.5,0.7,0.7"]
    assert "ignore" not in config.read_text()


def test_deleting_a_line_keeps_what_is_not_about_it(tmp_path: Path) -> None:
    """The comment right above it goes with it; one that stands apart stays."""
    config = tmp_path / "shop.toml"
    config.write_text(FILE)
    tool = editor(config)
    tables = tool.tables((640, 360))
    del tables["line"][0]
    assert tool.change(tables, (640, 360))["saved"]
    text = config.read_text()
    assert "where people come in" not in text
    assert "# not used since May\n\n# to the yard\n[[line]]" in text
    assert text.startswith('# the shop\ncamera = "0"  # by the window\n')


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda path: path.write_text(FILE.replace("0.3, 0]", "0.4, 0]")),
            "not those that detection began with",
        ),
        (lambda path: path.write_text("[[line"), "expected TOML"),
        (lambda path: path.unlink(), "cannot read"),
    ],
)
def test_a_file_that_somebody_changed_meanwhile_is_left_alone(tmp_path: Path, change: Any, why: str) -> None:
    """What was drawn is in use all the same, and the text to put into the file is given."""
    config = tmp_path / "shop.toml"
    config.write_text(FILE)
    tool = editor(config)
    change(config)
    before = config.read_text() if config.exists() else None
    answer = tool.change({"line": [DOOR], "zone": []}, (640, 360))
    assert not answer["saved"]
    assert why in answer["why"]
    assert answer["text"] == '[[line]]\nname = "door"\nfrom = [0.3, 0.0]\nto = [0.3, 1.0]\n'
    assert tool.scene.lines == (Line("door", (0.3, 0.0), (0.3, 1.0), True),)
    assert (config.read_text() if config.exists() else None) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["shop.toml"] if before is not None else [])


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written_is_told_before(tmp_path: Path) -> None:
    """The page then offers the text instead of saving."""
    config = tmp_path / "shop.toml"
    config.write_text(FILE)
    tmp_path.chmod(0o500)
    try:
        assert not editor(config).writable
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "text",
    [
        'note = """\n[[line]]\nname = "no table"\n"""\n',
        'line = [{name = "door", from = [0, 0], to = [1, 1]}]\n',
        'count-line = "door=0,0,1,1"\n',
    ],
)
def test_a_file_that_is_written_in_another_way_is_refused_whole(tmp_path: Path, text: str) -> None:
    """Rather than to be damaged: such as a header in a text of several lines."""
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"change the file by hand$"):
        rewrite(ConfigFile(path), {"line": [(None, DOOR)], "zone": [], "room": []})
    assert [one.name for one in tmp_path.iterdir()] == ["a.toml"]
    assert path.read_text() == text
