"""A camera's settings in a TOML file."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edge_centernet.camera_config import Settings, each_camera, read_config, slug
from edge_centernet.cli.detect import command
from edge_centernet.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    """A configuration file."""
    path = folder / "door.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_options_lines_and_zones_become_what_the_command_line_takes(tmp_path: Path) -> None:
    """Numbers become texts, lists of words A,B, tables NAME=x1,y1,...; dashes and underscores are alike."""
    path = write(
        tmp_path,
        """
        camera = 0
        device = "GPU.1"
        classes = ["person", "dog"]
        threshold = 0.4
        track = true
        [[line]]
        name = "door"
        from = [0.5, 0]
        to = [0.5, 1.0]
        [[zone]]
        name = "till 1"
        points = [[10, 20], [200, 20], [200, 180]]
        [[zone]]
        points = [0, 0, 1, 0, 1, 1]
        queue = true
        [[zone]]
        points = [0, 0, 1, 0, 1, 1]
        queue = 7.5
        [[zone]]
        points = [0, 0, 1, 0, 1, 1]
        ignore = true
        [[room]]
        name = "shop"
        lines = ["door", "-exit"]
        reset = "04:00"
        missed = 0.05
        [[room]]
        lines = ["door"]
        [floor]
        points = [[0, 1], [1, 1], [0.8, 0.5], [0.2, 0.5]]
        metres = [0, 0, 4, 0, 4, 6.5, 0, 6.5]
        [[rule]]
        name = "busy"
        kind = "queue"
        where = "till 1"
        limit = 5
        for = 30
        hours = "09:00-18:00"
        days = "mon-fri"
        classes = ["person", "dog"]
        [[rule]]
        kind = "capacity"
        where = "shop"
        limit = 50
        """,
    )
    assert read_config(path) == {
        "camera": "0",
        "device": "GPU.1",
        "classes": "person,dog",
        "threshold": "0.4",
        "track": True,
        "count_line": ["door=0.5,0,0.5,1.0"],
        "zone": [
            "till 1=10,20,200,20,200,180",
            "0,0,1,0,1,1;queue",
            "0,0,1,0,1,1;queue=7.5",
            "0,0,1,0,1,1;ignore",
        ],
        "room": ["shop=door,-exit;reset=04:00;missed=0.05", "door"],
        "floor": "0,1,1,1,0.8,0.5,0.2,0.5=0,0,4,0,4,6.5,0,6.5",
        "rule": [
            "busy=queue,till 1,5;for=30;hours=09:00-18:00;days=mon-fri;classes=person,dog",
            "capacity,shop,50",
        ],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camera = ", "expected TOML"),
        ("camra = 0", "unknown setting 'camra'"),
        ("treshold = 0.5", "unknown setting 'treshold'; did you mean 'threshold'?"),
        ("[[lin]]\nfrom = [0, 0]", "unknown setting 'lin'; did you mean 'line'?"),
        ("qqq = 1", "unknown setting 'qqq'; expected one of [[line]], [[zone]], "),
        ("line = 3", "expected tables that begin with [[line]]"),
        ("[[line]]\nfrom = [0, 0]\nto = 3", "expected to = a list of numbers"),
        ("[[line]]\nform = [0, 0]", "unknown form"),
        ('[[zone]]\npoints = ["a"]', "expected numbers"),
        ('[[room]]\nlines = "door"', 'expected name, lines = ["door", "-exit"]'),
        ('[[room]]\nlines = ["a"]\nempt = "b"', "empty = a zone's name and missed = 0.03"),
        ("[floor]\npoints = [0, 0]", "[floor]: expected metres = a list of numbers"),
        ("[floor]\ncorners = [0, 0]", "[floor]: unknown corners"),
        ('[[zone]]\npoints = [0, 0]\nqueue = "yes"', "expected queue = true, or seconds"),
        ("[[zone]]\npoints = [0, 0]\nignore = 1", "expected ignore = true or false, got 1"),
        (
            '[[rule]]\nkind = "queue"\nwhere = "a"\nlimit = true',
            "classes as a list of texts; got limit = True",
        ),
        ('[[rule]]\nkind = "queue"\nplace = "a"', "got place = 'a'"),
        ('[[rule]]\nkind = "queue"\nlimit = 4', "expected kind, where and limit, missing where"),
        ("camera = 2026-01-01", "expected a text"),
        ('webhook = "https://h/"', "expected tables that begin with [[webhook]], got str"),
        ('[[webhook]]\nurl = "https://h/"\nevent = ["left"]', "unknown event"),
        ('[[webhook]]\nurl = "https://h/"\nevents = "left"', "events: expected a list of texts, got str"),
        (
            '[[webhook]]\nurl = "https://h/"\nsecret = "${NO_SUCH}"',
            "[[webhook]]: secret: ${NO_SUCH} is not set",
        ),
        ("camera = []", "expected one camera, or tables that begin with [[camera]]"),
        ("[[camera]]\ncamera = 0\nserve = 80", "serve holds for all cameras"),
        ('[[camera]]\ncamera = 0\ndevice = "NPU"', "device holds for all cameras"),
        ("[[camera]]\nname = 'door'", "expected a camera in each"),
        ("[[camera]]\ncamera = 0\ncamra = 1", "unknown setting 'camra'"),
        ("name = 'shop'\n[[camera]]\ncamera = 0\n[[camera]]\ncamera = 1", "expected it in each [[camera]]"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    """The message says which file and what is expected there."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value).strip()


SHOP = """
    threshold = 0.4
    counts = "counts.json"
    store = "shop.db"
    out = "out"
    mqtt = "mqtt://broker/shop"
    [[camera]]
    name = "Front Door"
    camera = "rtsp://cam/1"
    store = "door.db"
    [[camera.line]]
    name = "door"
    from = [0.5, 0]
    to = [0.5, 1]
    [[camera]]
    camera = 0
    threshold = 0.5
"""


def test_cameras_are_tables_below_what_holds_for_all(tmp_path: Path) -> None:
    """Each has its own options, lines too, in its order."""
    found = read_config(write(tmp_path, SHOP))
    assert found.pop("camera") == [
        {
            "name": "Front Door",
            "camera": "rtsp://cam/1",
            "store": "door.db",
            "count_line": ["door=0.5,0,0.5,1"],
        },
        {"camera": "0", "threshold": "0.5"},
    ]
    assert found["threshold"] == "0.4"


def settings(**given: Any) -> Settings:
    """Nothing but what is given."""
    return Settings(**{**dict.fromkeys(Settings.__dataclass_fields__), **given})


def test_what_holds_for_all_is_kept_apart_by_names() -> None:
    """Files, folders and topics get a camera's name, unless they are its own or it is the only one."""
    common = settings(
        counts=Path("a/counts.json"), store=Path("shop.db"), out=Path("out"), mqtt="mqtt://broker/shop/"
    )
    door, other = each_camera(
        common, [{"name": "Front Door", "camera": "a", "store": Path("door.db")}, {"camera": "b"}]
    )
    assert (door.name, door.counts, door.store) == (
        "Front Door",
        Path("a/counts-front-door.json"),
        Path("door.db"),
    )
    assert (door.out, door.mqtt) == (Path("out/front-door"), "mqtt://broker/shop/front-door")
    assert (other.name, other.store, other.camera) == ("camera 2", Path("shop-camera-2.db"), "b")
    assert each_camera(common, [{"camera": "a"}]) == [replace(common, camera="a")]
    assert each_camera(settings(mqtt="mqtt://broker"), [{}, {}])[1].mqtt == "mqtt://broker"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"name": "Door"}, {"name": "door!"}, "a different name for each camera, got 'Door' and 'door!'"),
        ({"name": "camera 2"}, {}, "a different name"),
        ({"store": Path("a.db")}, {"store": Path("a.db")}, "store: expected a path of its own"),
        (
            {"mqtt": "mqtt://u:S3CRET@b/x"},
            {"mqtt": "mqtt://u:S3CRET@b/x/"},
            "mqtt: expected a URL of its own",
        ),
    ],
)
def test_what_two_cameras_cannot_share_is_refused(
    first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    """Names that are one in addresses, files and topics; no password is shown."""
    with pytest.raises(ConfigError) as caught:
        each_camera(settings(), [first, second])
    assert said in str(caught.value)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "short"),
    [("Front Door", "front-door"), ("../x", "x"), ("Tür", "t-r-1cff8a"), ("…", "camera-e3b0c4")],
)
def test_a_name_in_addresses_is_of_plain_letters(name: str, short: str) -> None:
    """With digits of a hash where letters were lost."""
    assert slug(name) == short


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.toml")


def test_format_is_the_name_in_a_file(tmp_path: Path) -> None:
    """As on the command line; the name of the field is no setting."""
    assert read_config(write(tmp_path, 'format = "csv"')) == {"format_name": "csv"}
    with pytest.raises(ConfigError, match="unknown setting 'format_name'"):
        read_config(write(tmp_path, 'format_name = "csv"'))


def test_variables_stand_for_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${NAME} is the environment's, else a systemd credential's; $${ is ${. On another computer all stay."""
    monkeypatch.setenv("CAMERA_USER", "admin")
    monkeypatch.setenv("quoted", '", "url": "http://thief/')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "door.password").write_text("S3CRET\n")
    path = write(
        tmp_path,
        """
        camera = "rtsp://${CAMERA_USER}:${door.password}@cam/1"
        token = "a$${b}$c"
        classes = ["${CAMERA_USER}", "dog"]
        [[line]]
        name = "by ${CAMERA_USER}"
        from = [0, 0]
        to = [1, 1]
        [[webhook]]
        url = "https://h/"
        secret = "${quoted}"
        """,
    )
    assert read_config(path) == {
        "camera": "rtsp://admin:S3CRET@cam/1",
        "token": "a${b}$c",
        "classes": "admin,dog",
        "count_line": ["by admin=0,0,1,1"],
        "webhook": ['{"url": "https://h/", "secret": "\\", \\"url\\": \\"http://thief/"}'],
    }
    assert read_config(path, variables=False)["token"] == "a$${b}$c"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x${NO_SUCH_NAME}S3CRET", "token: ${NO_SUCH_NAME} is not set: expected an environment variable"),
        ("x${S3CRET", "token: expected the name of a variable after ${"),
        ("x${../S3CRET}", "token: expected the name of a variable after ${"),
        ("x${}", "token: expected the name of a variable after ${"),
        ("${folder}", "token: cannot read the credential folder: Is a directory"),
    ],
)
def test_a_variable_that_is_not_there_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    """The file, the key and the variable; nothing of what else stands there."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "folder").mkdir()
    path = write(tmp_path, f'token = "{value}"')
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "S3CRET" not in str(caught.value)


def test_the_table_of_settings_is_the_options_of_detect() -> None:
    """Every option but the file itself may stand in the file."""
    options = {parameter.name for parameter in command.params}
    assert options - {field.name for field in fields(Settings)} == {"config"}
    assert {field.name for field in fields(Settings)} <= options
