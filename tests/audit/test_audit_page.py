"""`edge-centernet audit` as its user meets it: the command, and its page in a real browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import squares
from browser import NEEDS, Browser, find_programs, soon
from running import CLI
from support import Result, allow_interrupts

from edge_centernet.history.audit import kept
from edge_centernet.history.store import Store, StoredEvent, StoredPath, open_store

PETS = Path(__file__).resolve().parents[3] / "shared/data/pets09_s2l1_first400"
FPS = 10
# What crosses the middle of the clip: second, direction, class, row. Only red ones are counted.
CROSSINGS = ((1.8, "in", "red", 5), (3.8, "out", "red", 60), (5.4, "in", "green", 30), (8.4, "in", "red", 65))
LINE = "door=0.5,1,0.5,0"
KEYS = {"in": "1", "out": "2"}
# Presses each key once its time is played, and two not faster than fingers can.
AUTOMATON = """
    window.todo = %s;
    let pressed = 0;
    (function look() {
      if (todo.length && shown.at >= todo[0][0] && performance.now() - pressed > 120) {
        const key = todo.shift()[1];
        pressed = performance.now();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      }
      if (todo.length) requestAnimationFrame(look);
    })();
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as Debian and Ubuntu package it, or Chrome."""
    if not (programs := find_programs()):
        pytest.skip(f"needs {NEEDS}")
    opened = Browser(*programs)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds in which four squares cross the middle."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (squares.WIDTH, squares.HEIGHT))
    for number in range(10 * FPS):
        seen = []
        for at, direction, name, row in CROSSINGS:
            way = 40 * (number / FPS - at) * (1 if direction == "in" else -1)
            left = round(squares.WIDTH / 2 + way - squares.SIDE / 2)
            if 0 <= left <= squares.WIDTH - squares.SIDE:
                seen.append((name, left, min(row, squares.HEIGHT - squares.SIDE)))
        writer.write(squares.scene(*seen))
    writer.release()
    return path


class Auditing:
    """A running `audit`, and the page in the browser."""

    def __init__(self, browser: Browser | None, folder: Path, *options: object) -> None:
        """Start it in `folder`, and open its page."""
        self.log = folder / "audit.log"
        self._file = self.log.open("w")
        self.process = subprocess.Popen(
            [*CLI, "audit", "--no-browser", *map(str, options)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=self._file,
            text=True,
            preexec_fn=allow_interrupts,
        )
        self.browser: Any = browser
        try:
            self._open()
        except BaseException:  # nobody else ends it then
            self.__exit__()
            raise

    def _open(self) -> None:
        said = lambda: re.search(r"Page: (\S+)", self.log.read_text())  # noqa: E731
        found = soon(lambda: said() or self.process.poll() is not None, 120)
        assert isinstance(found, re.Match), self.log.read_text()
        self.url = found[1]
        if self.browser is not None:
            self.browser.open(self.url)
            # The first page only takes the token from the address, and has no script.
            ready = "return typeof shown === 'object' && shown !== null && shown.following !== null"
            assert soon(lambda: self.browser.run(ready)), self.browser.text("body")

    def __enter__(self) -> Auditing:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill it, unless it has ended."""
        self.process.kill()
        self.process.communicate()
        self._file.close()

    def key(self, *keys: str) -> None:
        """Press keys of a real keyboard, one after the other; special keys by their WebDriver codes."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.browser._call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def watch(self, *moments: tuple[float, str]) -> None:
        """Play all of this stretch, and press keys at the moments."""
        self.browser.run(AUTOMATON % json.dumps(sorted(moments)))
        self.browser.run("document.querySelector('[name=speed][value=\"4\"]').click()")
        self.key(" ")
        assert soon(lambda: self.browser.text("#on"), 120), self.browser.text("#time")
        assert soon(lambda: self.browser.run("return todo.length === 0"))

    def seen(self) -> list[str]:
        """The list of what was seen, the newest first."""
        return list(
            self.browser.run("return [...document.querySelectorAll('#seen span')].map(e => e.textContent)")
        )

    def end(self) -> tuple[int, str]:
        """Exit code and standard output, once it has ended by itself."""
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out

    def interrupt(self) -> tuple[int, str]:
        """The same after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.end()


def options(clip: Path, model: Path) -> list[object]:
    """Of the command that audits the clip."""
    return [clip, "--count-line", LINE, "--model", model, "--classes", "red"]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The two solutions of Wilson's equation, by a general solver."""
    z2 = 1.959964**2
    p = hits / total
    low, high = sorted(np.roots([1 + z2 / total, -(2 * p + z2 / total), p * p]).real)
    return float(low), float(high)


@pytest.mark.slow
def test_watching_gives_the_error(
    browser: Browser, clip: Path, onnx_model: Path, tmp_path: Path, run: Callable[..., Result]
) -> None:
    """Of three squares that somebody sees two are counted, and one more; the report tells it."""
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:
        # Nothing on the page tells of what was counted.
        assert not {"tally", "counted", "result"} & {*browser.run("return Object.keys(state)")}
        # A wrong press and its undo, in between; the last red one is, say, a cart.
        audit.watch((2.0, "1"), (3.0, "2"), (3.2, "u"), (4.1, "2"), (5.5, "1"))
        assert [text.split("  ")[1] for text in audit.seen()] == ["door, in", "door, out", "door, in"]
        browser.click("#on")
        assert soon(lambda: "Counts audited on" in browser.text("#result"))
        code, out = audit.end()
    assert code == 0, audit.log.read_text()
    low, high = wilson(1, 2)
    way_in, way_out = [line.strip() for line in out.splitlines()[1:]]
    assert way_in.startswith(
        "Of 2 objects that came in at door, 1 was counted "
        f"(50 %, between {100 * low:.0f} and {100 * high:.0f} %), and 1 was counted that was not there. "
        "Net error 0 %, between "
    )
    assert way_out.startswith(
        "Of 1 object that went out at door, 1 was counted (100 %, between 21 and 100 %)"
    )
    report = run("report", tmp_path / "clip.audit.db", "--json", tmp_path / "report.json")
    assert way_in in report.out
    assert "door, in: 2;" in report.out  # what was counted in the clip is there, too
    [kept_audit] = json.loads((tmp_path / "report.json").read_text())["audits"]
    assert (kept_audit["finished"], kept_audit["watched_s"]) == (True, 10.0)


@pytest.mark.slow
def test_it_goes_on_after_ctrl_c(browser: Browser, clip: Path, onnx_model: Path, tmp_path: Path) -> None:
    """What was pressed is there again, where it was left off; the video is not counted a second time."""
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:
        audit.key(".", ".", ".")
        assert soon(lambda: "0:00.3" in browser.text("#time"))
        audit.key("1")
        assert soon(lambda: audit.seen() == ["0:00.3  door, in"])
        browser.click("#undo")
        audit.key("2")
        assert soon(lambda: audit.seen() == ["0:00.3  door, out"])
        assert soon(lambda: len(kept(tmp_path / "clip.audit.db")[0].seen) == 1)
        code, _ = audit.interrupt()
        assert code == 130
        assert "Counting" in audit.log.read_text()
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:
        assert "Counting" not in audit.log.read_text()
        assert soon(lambda: audit.seen() == ["0:00.3  door, out"])
        assert browser.run("return state.stretches[0].reached") == pytest.approx(0.3)
        browser.click("#finish")
        assert "0:09.7 are not watched yet" in browser.text("#rest")
        browser.click("#finish")
        assert audit.end()[0] == 0
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:  # another one begins
        assert audit.seen() == []
        assert "Counting" not in audit.log.read_text()


@pytest.mark.slow
def test_one_press_is_one_crossing(browser: Browser, clip: Path, onnx_model: Path, tmp_path: Path) -> None:
    """A button that bounces and a key that is held are one; two people at once are two presses."""
    button = "document.querySelector('#lines button[data-direction=in]')"
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:
        browser.run(f"{button}.click(); {button}.click()")
        assert len(audit.seen()) == 1
        time.sleep(0.2)
        browser.click("#lines button[data-direction=in]")
        time.sleep(0.2)
        browser.click("#lines button[data-direction=in]")
        assert len(audit.seen()) == 3
        browser.run("for (let i = 0; i < 5; i += 1) document.body.dispatchEvent("
                    "new KeyboardEvent('keydown', { key: '1', bubbles: true, repeat: true }))")  # fmt: skip
        assert len(audit.seen()) == 3
        # After a click the space bar plays, and does not press the button again.
        audit.key(" ")
        assert soon(lambda: browser.text("#play") == "Pause")
        audit.key(" ")
        assert soon(lambda: browser.text("#play") == "Play")
        assert len(audit.seen()) == 3
        # One of them is taken back from the middle of the list.
        browser.click("#seen li:nth-child(2) button")
        assert soon(lambda: len(kept(tmp_path / "clip.audit.db")[0].seen) == 2)
        # A request that comes twice is the same crossing.
        browser.run("const one = state.seen[0]; send('crossing', one); send('crossing', one)")
        time.sleep(0.3)
        assert len(kept(tmp_path / "clip.audit.db")[0].seen) == 2


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(browser: Browser, clip: Path, onnx_model: Path, tmp_path: Path) -> None:
    """Every control is reached by Tab, has a name, and does what it says by the space bar or Enter."""
    tab, enter = "\ue004", "\ue007"
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:
        reached = []
        for _ in range(14):
            audit.key(tab)
            reached.append(
                browser.run(
                    "const e = document.activeElement;"
                    "return e.getAttribute('aria-label') || e.innerText.trim() || e.value"
                )
            )
            if reached[-1] == "door: in":
                audit.key(enter)
            if reached[-1] == "door: out":
                audit.key(" ")
        names = ["door: in", "door: out", "Play", "Back 5 seconds", "One picture back", "One picture on", "1"]
        assert [name for name in reached if name in names] == names
        assert {"Keys", "Undo U", "Finish and show the result"} <= set(reached)
        assert len(audit.seen()) == 2
        assert browser.run(
            "return [...document.querySelectorAll('button, input')].filter(e => e.checkVisibility())"
            ".filter(e => !(e.ariaLabel || e.innerText || e.labels && e.labels.length)).length"
        ) == 0  # fmt: skip
        # Single keys can be switched off, for those whose voice or switch makes keys of its own.
        browser.run("document.querySelector('#shortcuts').click(); document.activeElement.blur()")
        audit.key("1", "2", "u")
        assert len(audit.seen()) == 2


@pytest.mark.slow
def test_back_and_on_show_what_was_there(
    browser: Browser, clip: Path, onnx_model: Path, tmp_path: Path
) -> None:
    """Picture by picture, and five seconds back; nobody skips what was not watched; it fits a phone."""
    with Auditing(browser, tmp_path, *options(clip, onnx_model)) as audit:
        at = "return shown.seconds"
        audit.key(".", ".", ".")
        assert soon(lambda: browser.run(at) == pytest.approx(0.3))
        audit.key(",")
        assert soon(lambda: browser.run(at) == pytest.approx(0.2))
        browser.run("const s = document.querySelector('#slider'); s.value = 9;"
                    "s.dispatchEvent(new Event('input'))")  # fmt: skip
        assert soon(lambda: browser.run(at) == pytest.approx(0.3))
        audit.watch()
        audit.key("\ue012")
        assert soon(lambda: browser.run(at) == pytest.approx(4.9, abs=0.11))
        assert browser.run("return [document.documentElement.scrollWidth, picture.naturalWidth]") == [
            390,
            128,
        ]


def test_strangers_and_other_pages_are_refused(clip: Path, onnx_model: Path, tmp_path: Path) -> None:
    """Without the token nothing is shown, on this computer too; what is no JSON is not taken."""
    with Auditing(None, tmp_path, *options(clip, onnx_model)) as audit:
        base, _, token = audit.url.partition("?token=")
        token = urllib.parse.unquote(token)

        def ask(path: str, body: bytes | None = None, **headers: str) -> int:
            request = urllib.request.Request(
                base + path, body, {k.replace("_", "-"): v for k, v in headers.items()}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        mine = {"Authorization": f"Bearer {token}"}
        seen = {"id": "a", "stretch": 0, "at": 1.0, "line": "door", "direction": "in"}
        assert [ask(path) for path in ("", "audit.js", "audit.json", "picture.jpg?stretch=0&at=0")] == [
            401
        ] * 4
        assert ask("crossing", json.dumps(seen).encode(), Content_Type="application/json") == 401
        assert ask("crossing", json.dumps(seen).encode(), Content_Type="text/plain", **mine) == 415
        for wrong in (
            {"line": "gate"}, {"direction": "up"}, {"stretch": 1}, {"stretch": -1}, {"at": 99}, {"at": "x"},
            {"id": ""}, {"id": "a" * 65},
        ):  # fmt: skip
            body = json.dumps(seen | wrong).encode()
            assert ask("crossing", body, Content_Type="application/json", **mine) == 400, wrong
        assert ask("crossing", b"[]", Content_Type="application/json", **mine) == 400
        assert ask("picture.jpg?stretch=0&at=nan", **mine) == ask("picture.jpg?stretch=7&at=0", **mine) == 400
        assert kept(tmp_path / "clip.audit.db")[0].seen == {}
        assert ask("crossing", json.dumps(seen).encode(), Content_Type="application/json", **mine) == 200
        assert len(kept(tmp_path / "clip.audit.db")[0].seen) == 1
        audit.interrupt()


@pytest.mark.slow
def test_kept_paths_are_audited_while_the_camera_counts(browser: Browser, tmp_path: Path) -> None:
    """The store stays open for its writer; the result is in it, beside what it goes on counting."""
    began = round(time.time() * 1000) - 60_000
    store = Store(tmp_path / "a.db", "entrance", began)
    walk = np.array([[i / 4, i / 20, 0.5, 0.1] for i in range(21)], np.float32)
    paths = [StoredPath(began + at, began + at + 5_000, "person", at, walk) for at in (0, 4_000, 8_000)]
    events = [
        StoredEvent(path.began + 2_600, "crossed", "door", "in", "person", path.track) for path in paths
    ]
    store.add(began + 13_000, events[:2], paths)  # the third is not counted
    with Auditing(browser, tmp_path, tmp_path / "a.db", "--count-line", LINE) as audit:
        assert "whoever was never found has no dot" in browser.text("#how")
        audit.watch((2.5, "1"), (6.5, "1"), (10.5, "1"))
        store.add(began + 60_000, [StoredEvent(began + 60_000, "crossed", "door", "in", "person", 9)])
        browser.click("#on")
        code, out = audit.end()
    store.close()
    assert code == 0
    low, high = wilson(2, 3)
    sentence = (
        f"Of 3 people who came in at door, 2 were counted (67 %, between {100 * low:.0f} and "
        f"{100 * high:.0f} %), and none was counted that was not there. Net error -33 %"
    )
    assert sentence in out
    with closing(open_store(tmp_path / "a.db")) as base:
        assert base.execute("SELECT count(*) FROM event").fetchone() == (3,)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["CLIP"], "expected the lines to watch: --count-line, or --config with [[line]]"),
        (["none.mp4", "--count-line", LINE], "none.mp4: expected a video or a store, No such file"),
        (["CLIP", "--count-line", LINE, "--still", "a.png"], "--still: expected only with a store, got"),
        (["CLIP", "--count-line", LINE, "--classes", "cow"], "unknown class 'cow'"),
    ],
)
def test_bad_input_gets_one_line(
    run: Callable[..., Result], clip: Path, onnx_model: Path, arguments: list[str], says: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What was expected and what came; exit code 2, and no file is made."""
    monkeypatch.chdir(tmp_path)
    given = [str(clip) if one == "CLIP" else one for one in arguments]
    done = run("audit", *given, "--model", onnx_model)
    assert done.code == 2
    assert says in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def true_crossings() -> list[tuple[float, str]]:
    """Of the middle of the PETS clip: when a foot point 5 pixels on one side is so on the other."""
    rows = np.loadtxt(PETS / "gt.txt", delimiter=",")
    found = []
    for person in np.unique(rows[:, 1]):
        walk = rows[rows[:, 1] == person]
        side = 0
        for frame, x in zip(walk[:, 0] - 1, walk[:, 2] + walk[:, 4] / 2 - 240, strict=True):
            now = 0 if abs(x) < 5 else (1 if x > 0 else -1)
            if now and side and now != side:
                found.append((float(frame) / 10, "in" if now > 0 else "out"))
            side = now or side
    return sorted(found)


@pytest.mark.slow
@pytest.mark.skipif(not PETS.is_dir(), reason="needs ../shared/data/pets09_s2l1_first400")
def test_the_pets_clip_clicked_at_the_true_moments(
    browser: Browser, tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error and interval are those of the truth and of what `detect` counts, computed here anew."""
    from scipy.optimize import linear_sum_assignment

    common = ["--count-line", "middle=0.5,1,0.5,0", "--classes", "person"]
    with Auditing(browser, tmp_path, PETS / "video.mp4", *common) as audit:
        truth = true_crossings()
        audit.watch(*((at, KEYS[way]) for at, way in truth))
        browser.click("#on")
        code, out = audit.end()
    assert code == 0, audit.log.read_text()
    [record] = kept(tmp_path / "video.audit.db")
    # 1. What the page took is what was pressed, a picture later at most.
    seen = sorted((at, way) for _, (at, _, way) in record.seen.values())
    assert [way for _, way in seen] == [way for _, way in truth]
    assert max(abs(a - b) for (a, _), (b, _) in zip(seen, truth, strict=True)) <= 1.0
    # 2. What it compared with is what `detect` counts.
    monkeypatch.chdir(tmp_path)
    done = run(
        "detect", "--source", PETS / "video.mp4", *common, "--format", "none", "--no-save", "--store", "d.db"
    )
    assert done.code == 0, done.err
    with closing(open_store(tmp_path / "d.db")) as base:
        [(began,)] = base.execute("SELECT began FROM run").fetchall()
        counted = [
            ((at - began) / 1000, way) for at, way in base.execute("SELECT time, direction FROM event")
        ]
    # 3. The figures, by the assignment of another library and by Wilson's equation.
    for score in record.scores():
        true = [at for at, way in truth if way == score.direction]
        machine = [at for at, way in counted if way == score.direction]
        apart = np.abs(np.subtract.outer(true, machine))
        matched = int((apart[linear_sum_assignment(np.where(apart <= 2, 0, 1))] <= 2).sum())
        assert (score.true, score.matched, score.extra) == (len(true), matched, len(machine) - matched)
        assert score.recall is not None
        assert score.recall[1:] == pytest.approx(wilson(matched, len(true)), abs=1e-6)
        assert score.error is not None
        assert score.error.value == pytest.approx((len(machine) - len(true)) / len(true))
        assert score.error.low <= score.error.value <= score.error.high
        assert f"Of {len(true)} people who" in out
    print(out)
