"""The live page in a real browser."""

from __future__ import annotations

import functools
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import pytest
import shop
from browser import NEEDS, Browser, find_programs, pixels, soon
from live_support import CLASSES, FOUND, OneCamera, feed, snapshot
from running import Detect
from servers import mjpeg_server

import edge_centernet
from edge_centernet.camera_config import read_config
from edge_centernet.history.store import open_store
from edge_centernet.outputs.annotate import Overlay
from edge_centernet.outputs.web.server import WebServer
from edge_centernet.outputs.web.view import View
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.line_counter import parse_line
from edge_centernet.tracking.scene import SceneOptions
from edge_centernet.tracking.state import LineCount, Snapshot, Tally, ZoneCount
from edge_centernet.tracking.zone_counter import parse_zone

TOKEN = "a token, for tests!"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as Debian and Ubuntu package it, or Chrome."""
    if not (programs := find_programs()):
        pytest.skip(f"needs {NEEDS}")
    opened = Browser(*programs)
    yield opened
    opened.close()


@pytest.fixture
def server() -> Iterator[OneCamera]:
    """A page that needs no token."""
    started = OneCamera("127.0.0.1:0")
    started.start()
    yield started
    started.close()


def full(result: Snapshot) -> Snapshot:
    """With counts that follow from the frame's number."""
    number = result.frame.number
    tally = Tally((LineCount("front door", number, 2 * number),), (ZoneCount("sofa", 1, number, 75.0, 4.56),))
    return replace(result, tally=tally)


def test_the_picture_moves_and_fits_a_phone(browser: Browser, server: OneCamera) -> None:
    """Its pixels change from look to look, it is as wide as the screen, nothing is scrolled sideways."""
    with feed(server.update, full):
        browser.open(server.url)
        assert soon(lambda: browser.run("return document.querySelector('#picture').naturalWidth")) == 960
        looks = []
        for _ in range(6):
            looks.append(tuple(pixels(browser)))
            time.sleep(0.3)
        assert len(set(looks)) == 6
        assert max(looks[0]) - min(looks[0]) > 100  # a photo, not one colour
        width, scroll, picture = browser.run(
            "return [innerWidth, document.documentElement.scrollWidth,"
            " document.querySelector('#picture').clientWidth]"
        )
        assert (width, scroll, picture) == (390, 390, 390)
        assert browser.text("#status") == "live"
        assert not browser.run("return document.querySelector('#picture').matches('.old')")


@pytest.mark.parametrize("line", ["0.5,0.55,0.5,0.45", "0.275,1,0.375,0.643"])
def test_a_name_leaves_the_word_of_the_arrow_free(browser: Browser, line: str) -> None:
    """On a phone, where both are near to each other."""
    with shop.open_shop(SceneOptions(lines=(parse_line(f"door={line}"),))) as server:
        browser.open(server.url)
        assert soon(lambda: browser.run("return document.querySelectorAll('#shapes .label').length")) == 1
        sides = """
            return ["#shapes .label rect", "#shapes text.in"].map(one => {
                const { left, right, top, bottom } = document.querySelector(one).getBoundingClientRect();
                return [left, right, top, bottom];
            });
        """
        name, word = browser.run(sides)
        assert name[0] >= word[1] or name[1] <= word[0] or name[2] >= word[3] or name[3] <= word[2]
        assert abs(name[2] - word[2]) < 60  # and stays with its line


def test_long_names_fit_a_phone(browser: Browser, server: OneCamera) -> None:
    """Names come from users: they may be long, and are text, whatever they hold."""
    name = "<img src=x onerror=document.title='taken'> " + "a" * 80
    tally = Tally((LineCount(name, 123456, 654321),), (ZoneCount(name, 123, 456789, 86400.0, 3600.0),))
    server.update(replace(snapshot(), tally=tally))
    browser.open(server.url)
    assert soon(lambda: name in browser.text("#lines") and name in browser.text("#zones"))
    broken = """
        return [...document.querySelectorAll(".figures b")].filter(cell => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            return text.getClientRects().length !== 1;
        }).map(cell => cell.textContent);
    """
    assert browser.run(broken) == []  # each number stands in one line
    assert browser.run("return document.title") == "door"
    assert browser.run("return document.documentElement.scrollWidth") == 390


def test_the_counts_are_those_of_the_newest_result(browser: Browser, server: OneCamera) -> None:
    """Lines, zones and objects in plain words; an engineer's figures only when they are asked for."""
    server.update(full(snapshot(7)))
    browser.open(server.url)

    def words(selector: str) -> str:
        return " ".join(browser.text(selector).split())

    assert soon(lambda: words("#lines") == "front door 7 came in 14 went out")
    assert words("#zones") == "sofa 1 here now 7 visits · 4.6 s on average · longest 75 s"
    assert browser.text("#detections") == "1 × cat, 1 × person"
    assert browser.text("#speed") == ""
    browser.click("#engineer summary")
    speed = browser.text("#speed").split("\n")
    assert dict(zip(speed[::2], speed[1::2], strict=True)) == {
        "results a second": "29.7",
        "age of a result": "42 ms",
        "preprocess": "2.1 ms",
        "inference": "31.4 ms",
        "decode": "0.4 ms",
        "frames skipped": "0",
        "source reopened": "0",
        "viewers": "1",
        "source": "camera 0",
        "version": edge_centernet.__version__,
    }
    server.update(replace(full(snapshot(8)), found=FOUND[:1]))
    assert soon(lambda: words("#lines") == "front door 8 came in 16 went out")
    assert browser.text("#detections") == "1 × person"
    server.update(snapshot(9))
    assert soon(lambda: browser.text("#lines") == "")


def test_five_viewers_see_moving_pictures_and_right_counts(browser: Browser, server: OneCamera) -> None:
    """The page and four streams at once, while the loop that feeds them keeps its rate."""
    done = threading.Event()
    got = [0] * 4

    def watch(index: int) -> None:
        with urllib.request.urlopen(f"{server.url}stream.mjpg", timeout=20) as stream:
            while not done.is_set():
                got[index] += stream.read(65536).count(b"--frame\r\n")

    fed: list[float] = []

    def give(result: Snapshot) -> None:
        server.update(result)
        fed.append(time.monotonic())

    threads = [threading.Thread(target=watch, args=(i,)) for i in range(4)]
    with feed(give, full):
        browser.open(server.url)
        for thread in threads:
            thread.start()
        assert soon(lambda: server.viewers == 5)
        begin = len(fed)
        looks = set()
        for _ in range(10):
            looks.add(tuple(pixels(browser)))
            time.sleep(0.3)
        rate = (len(fed) - begin - 1) / (fed[-1] - fed[begin])
        inward, outward = browser.run(
            "return [...document.querySelectorAll('#lines b')].map(figure => figure.textContent)"
        )
        assert (len(looks), int(outward)) == (10, 2 * int(inward))
        assert 0 <= len(fed) - int(inward) < 30  # less than a second behind
        done.set()
        for thread in threads:
            thread.join()
    assert min(got) > 10
    assert rate > 0.95 * 29.5


def test_no_request_leaves_the_board(browser: Browser, server: OneCamera) -> None:
    """What the page loads is from the server or from the page itself; its policy stops all else."""
    with feed(server.update, full):
        browser.open(server.url)
        assert soon(lambda: browser.run("return document.querySelector('#picture').naturalWidth"))
        loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in loaded if not name.startswith(("blob:", "data:", server.url))] == []
        blocked = """
            const said = new Promise(done => {
                addEventListener("securitypolicyviolation", e => done(e.blockedURI));
            });
            fetch("http://127.0.0.1:9/").catch(() => {});
            return said;
        """
        assert browser.run(blocked) == "http://127.0.0.1:9/"


def test_a_lost_camera_is_told_and_the_picture_shown_as_old(browser: Browser) -> None:
    """A red banner with the reason, a grey picture, an age that goes on growing; all gone when it is back."""
    capture = CaptureState("live")
    server = OneCamera("127.0.0.1:0", capture=lambda: capture)
    server.start()
    try:
        server.update(snapshot(1))
        browser.open(server.url)
        assert soon(lambda: browser.text("#status") == "live")
        capture = CaptureState("lost", "camera 0: unplugged", reopened=2)
        assert soon(lambda: browser.text("#banner") == "The camera is lost. camera 0: unplugged")
        assert browser.text("#status") == "camera lost"
        assert "grayscale(1)" in browser.run(
            "return getComputedStyle(document.querySelector('#picture')).filter"
        )
        assert soon(lambda: browser.text("#age").startswith("picture is"))
        ages = [float(browser.text("#age").split()[2]) for _ in range(3) if time.sleep(0.6) is None]
        assert ages == sorted(set(ages))
        capture = CaptureState("live", reopened=3)
        server.update(snapshot(2))
        assert soon(lambda: browser.text("#status") == "live" and browser.text("#banner") == "")
        assert not browser.run("return document.querySelector('#picture').matches('.old')")
    finally:
        server.close()


def test_the_page_comes_back_when_the_server_does(browser: Browser, server: OneCamera) -> None:
    """Without being reloaded: it reports that it has no connection, and shows new images when it has."""
    server.update(full(snapshot(1)))
    browser.open(server.url)
    browser.run("window.before = true")
    assert soon(lambda: browser.text("#status") == "live")
    server.close()
    assert soon(lambda: browser.text("#status") == "no connection")
    assert "Trying again" in browser.text("#banner")
    second = OneCamera(f"127.0.0.1:{server.port}")
    second.start()
    try:
        with feed(second.update, full):
            assert soon(lambda: browser.text("#status") == "live")
            first = pixels(browser)
            assert soon(lambda: pixels(browser) != first)
            assert browser.run("return window.before") is True
    finally:
        second.close()


def test_the_token_leaves_the_address_bar(browser: Browser) -> None:
    """The page works by its cookie afterwards, also when opened again."""
    server = OneCamera("127.0.0.1:0", token=TOKEN)
    server.start()
    bare = f"http://127.0.0.1:{server.port}/"
    try:
        with feed(server.update):
            browser.open(bare)
            assert browser.text("h1") == "This camera is private"
            browser.open(server.url)
            assert soon(lambda: browser.url == bare)
            assert soon(lambda: browser.text("#status") == "live")
            browser.open(bare)
            assert soon(lambda: browser.text("#status") == "live")
            assert browser.run("return document.cookie") == ""
    finally:
        server.close()


def test_a_link_on_another_site_works_too(browser: Browser) -> None:
    """As from a web mail: no cookie is sent with what another site asks for, and still the page opens."""
    server = OneCamera("127.0.0.1:0", token=TOKEN)
    server.start()
    try:
        with feed(server.update):
            link = f"<a id='live' href='{server.url}'>live</a>"
            browser.open(f"data:text/html,{urllib.parse.quote(link)}")
            browser.click("#live")
            assert soon(lambda: browser.url == f"http://127.0.0.1:{server.port}/")
            assert soon(lambda: browser.run("return Boolean(document.querySelector('#status.live'))"))
    finally:
        server.close()


def test_a_page_in_the_background_asks_for_no_picture(browser: Browser, server: OneCamera) -> None:
    """A phone in a pocket costs the board nothing but five short messages a second."""
    with feed(server.update):
        browser.open(server.url)
        assert soon(lambda: browser.text("#status") == "live")
        assert soon(lambda: browser.run("return document.querySelector('#picture').naturalWidth"))
        browser.run("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        time.sleep(2.0)  # for the two pictures that were asked for before, also on a busy computer
        first = pixels(browser)
        time.sleep(1.0)
        assert pixels(browser) == first
        browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        assert soon(lambda: pixels(browser) != first)


def test_all_has_a_name_that_a_screen_reader_says(browser: Browser, server: OneCamera) -> None:
    """Landmarks, headings, names of whatever can be operated, a text for the picture, live regions."""
    server.update(full(snapshot(7)))
    browser.open(server.url)
    assert soon(lambda: browser.text("#lines") != "")
    assert faults(browser) == []
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return document.querySelector('#status').role") == "status"
    assert browser.run("return document.querySelector('#banner').role") == "alert"


def test_several_cameras_are_on_one_page(browser: Browser) -> None:
    """On a phone below each other: moving pictures, counts, who is lost; a touch opens one, and it works."""
    states = {"door": CaptureState("live"), "Back yard": CaptureState("live")}
    views = [
        View(
            name,
            classes=CLASSES,
            overlay=Overlay(CLASSES),
            several=True,
            capture=functools.partial(states.__getitem__, name),
        )
        for name in states
    ]
    shop = WebServer("127.0.0.1:0", views)
    shop.start()

    def give(result: Snapshot) -> None:
        views[0].update(result)
        if states["Back yard"].state == "live":
            views[1].update(result)

    cells = "return Array.from(document.querySelectorAll('#cameras img')).map(i => [i.clientWidth, i.src])"
    try:
        with feed(give, full):
            browser.open(shop.url)
            assert soon(lambda: browser.text("#status") == "2 of 2 live")
            assert soon(lambda: all(src for _, src in browser.run(cells)))
            before = browser.run(cells)
            assert soon(lambda: all(a[1] != b[1] for a, b in zip(browser.run(cells), before, strict=True)))
            assert [width > 300 for width, _ in before] == [True, True]
            assert browser.run("return document.documentElement.scrollWidth") == 390
            assert re.fullmatch(
                r"front door: \d+ in, \d+ out · sofa: 1 inside", browser.text("#cameras .counts")
            )
            states["Back yard"] = CaptureState("lost", "unplugged")
            assert soon(lambda: browser.text("#status") == "1 of 2 live")
            assert browser.text("li:nth-child(2) .state") == "camera lost"
            assert browser.text("li:nth-child(2) .detail") == "unplugged"
            browser.click("li:first-child a")
            assert soon(lambda: browser.url == f"{shop.url}door/")
            assert soon(lambda: browser.text("#status") == "live")
            first = pixels(browser)
            assert soon(lambda: pixels(browser) != first)
    finally:
        shop.close()


# ---- the page as a tool: a drawn shop, whose people are really tracked and counted ----------------


def faults(browser: Browser) -> list[str]:
    """What keeps people from using what is shown now."""
    return browser.run((Path(__file__).parents[2] / "helpers/accessibility.js").read_text())


@pytest.fixture(scope="module")
def desktop() -> Iterator[Browser]:
    """A large window, with a mouse."""
    if not (programs := find_programs()):
        pytest.skip(f"needs {NEEDS}")
    opened = Browser(*programs, phone=False)
    yield opened
    opened.close()


def places(browser: Browser, *points: tuple[float, float]) -> list[tuple[float, float]]:
    """Points in the picture, given in fractions of it, in pixels of the window."""
    left, top, width, height = browser.run(
        "scrollTo(0, 0); const r = document.querySelector('#shapes').getBoundingClientRect();"
        "return [r.left, r.top, r.width, r.height]"
    )
    return [(left + x * width, top + y * height) for x, y in points]


def edit(browser: Browser, url: str) -> None:
    """Open the page and its editor."""
    browser.open(url)
    browser.run("onbeforeunload = null")
    assert soon(lambda: browser.text("#edit") != "")
    browser.click("#edit")
    assert soon(lambda: browser.text("#editor") != "")


def rename(browser: Browser, name: str) -> None:
    """The newest line, zone or room in the list."""
    browser.run(
        "const fields = document.querySelectorAll('#list input[type=text]');"
        "const last = fields[fields.length - 1];"
        f"last.value = {name!r}; last.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def test_a_line_drawn_with_the_mouse_is_counted_at_once_and_saved(desktop: Browser, tmp_path: Path) -> None:
    """On the paths of the last hour, as often as people passed; comments in the file stay."""
    now = time.time()
    shop.fill(tmp_path / "shop.db", now, paths=40)
    config = tmp_path / "shop.toml"
    config.write_text('# of the shop\ncamera = "0"  # by the window\n')
    kept = shop.walkers(3300.0, every=3300.0 / 40)[-40:]
    with shop.open_shop(store=tmp_path / "shop.db", config=config) as server:
        edit(desktop, server.owner_url)
        desktop.click("#add-line")
        # Down the picture: "in" is on the left then.
        desktop.draw(*places(desktop, (shop.DOOR_X, 0.4), (shop.DOOR_X, 0.7), (shop.DOOR_X, 0.97)))
        outward, inward = shop.crossings(kept, shop.DOOR_X)
        assert min(inward, outward) >= 30
        assert soon(lambda: f"Last hour: {inward} in, {outward} out" in desktop.text("#list"))
        desktop.click("#list .line .row button")  # turns the arrow round
        assert soon(lambda: f"Last hour: {outward} in, {inward} out" in desktop.text("#list"))
        rename(desktop, "Front door")
        desktop.click("#save")
        assert soon(lambda: "Saved in shop.toml" in desktop.text("#saved"))
        assert desktop.text("#saved").endswith("kept as shop.toml.bak.")
        text = config.read_text()
        assert text.startswith(
            '# of the shop\ncamera = "0"  # by the window\n\n[[line]]\nname = "Front door"\n'
        )
        desktop.click("#cancel")
        assert soon(lambda: "came in" in desktop.text("#lines"))
        assert soon(lambda: int(desktop.text("#lines b")) >= 1, 30)
        assert soon(lambda: "came in\nFront door" in desktop.text("#events"))


def test_a_zone_and_a_room_are_made_with_a_finger(browser: Browser, tmp_path: Path) -> None:
    """On a phone: corners by taps, closed on the first; a corner dragged; a room named."""
    config = tmp_path / "shop.toml"
    config.write_text('[[line]]\nname = "door"\nfrom = [0.3, 0.95]\nto = [0.3, 0.4]\n')
    shop.fill(tmp_path / "shop.db", time.time())
    door = parse_line("door=0.3,0.95,0.3,0.4")
    with shop.open_shop(SceneOptions(lines=(door,)), tmp_path / "shop.db", config) as server:
        edit(browser, server.owner_url)
        assert faults(browser) == []
        browser.click("#add-zone")
        corners = [(0.5, 0.78), (0.7, 0.78), (0.7, 0.9), (0.5, 0.9)]
        for corner in [*corners, corners[0]]:
            browser.draw(*places(browser, corner), touch=True)
        assert soon(lambda: "came, stayed" in browser.text("#list"))
        browser.draw(*places(browser, corners[2], (0.75, 0.95)), touch=True)
        rename(browser, "Till")
        browser.run("document.querySelector('#add-room').click()")
        rename(browser, "Shop")
        assert browser.run("return document.documentElement.scrollWidth") == 390
        browser.run("document.querySelector('#save').click()")
        assert soon(lambda: "Saved in" in browser.text("#saved"))
        saved = read_config(config)
        zone = parse_zone(saved["zone"][0])
        assert (zone.name, len(zone.points)) == ("Till", 4)
        assert zone.points[2] == pytest.approx((0.75, 0.95), abs=0.01)
        assert saved["room"] == ["Shop=door"]
        browser.run("document.querySelector('#cancel').click()")
        assert soon(lambda: "inside now" in browser.text("#rooms") and "here now" in browser.text("#zones"))


def test_a_zone_is_ignored_or_a_queue_by_a_click(browser: Browser, tmp_path: Path) -> None:
    """Never both: one box unchecks the other. It is told on the picture, and saved."""
    config = tmp_path / "shop.toml"
    config.write_text(
        '[[zone]]\nname = "poster"\npoints = [[0.5, 0.8], [0.7, 0.8], [0.7, 0.9]]\nqueue = true\n'
    )
    poster = parse_zone("poster=0.5,0.8,0.7,0.8,0.7,0.9;queue")
    with shop.open_shop(SceneOptions(zones=(poster,)), None, config) as server:
        edit(browser, server.owner_url)
        boxes = "[...document.querySelectorAll('#list input[type=checkbox]')]"
        browser.run(f"{boxes}[1].click()")
        assert browser.run(f"return {boxes}.map(box => box.checked)") == [False, True]
        browser.run("document.querySelector('#save').click()")
        assert soon(lambda: "Saved in" in browser.text("#saved"))
        assert parse_zone(read_config(config)["zone"][0]) == replace(poster, queue=None, ignore=True)
        browser.run("document.querySelector('#cancel').click()")
        shown = "return document.querySelector('#shapes').textContent"
        assert soon(lambda: "poster: ignored" in browser.run(shown))
        assert faults(browser) == []


def test_the_keyboard_alone_draws_moves_and_saves(desktop: Browser) -> None:
    """Enter on "add" makes a line whose ends arrow keys move; the text is there to copy."""
    enter, tab, right, escape = "\ue007", "\ue004", "\ue014", "\ue00c"
    with shop.open_shop() as server:
        edit(desktop, server.owner_url)
        desktop.run("document.querySelector('#add-line').focus()")
        desktop.press(enter)
        focused = "return document.activeElement.getAttribute('aria-label')"
        assert desktop.run(focused).startswith("line 1, first end: 50 % from the left, 95 % from the top.")
        desktop.press(right, right)
        assert desktop.run(focused).startswith("line 1, first end: 52 %")
        desktop.press(tab)
        assert desktop.run(focused).startswith("line 1, second end: 50 %")
        desktop.click("#add-zone")
        desktop.press(escape)
        desktop.click("#save")
        assert soon(lambda: desktop.run("return document.querySelector('#saved textarea')?.value"))
        text = desktop.run("return document.querySelector('#saved textarea').value")
        assert text == '[[line]]\nname = "line 1"\nfrom = [0.52, 0.95]\nto = [0.5, 0.35]\n'
        assert "until detection is started again" in desktop.text("#saved")


def test_who_opened_the_page_without_the_token_is_asked_for_it_when_saving(desktop: Browser) -> None:
    """Also on this computer, where looking needs none. Until then nothing is changed."""
    with shop.open_shop() as server:
        desktop.command("Network.clearBrowserCookies")
        edit(desktop, server.url)
        desktop.run("document.querySelector('#add-line').focus()")
        desktop.press("\ue007")
        desktop.click("#save")
        assert soon(lambda: "Token needed" in desktop.text("#ask"))
        desktop.type("#ask-field", "not the token\ue007")
        assert soon(lambda: desktop.text("#ask-wrong") == "That is not the token.")
        assert desktop.text("#lines") == ""
        desktop.run("document.querySelector('#ask-field').value = ''")
        desktop.type("#ask-field", server.guard.secret + "\ue007")
        assert soon(lambda: "In use" in desktop.text("#saved"))
        desktop.click("#cancel")
        assert soon(lambda: "came in" in desktop.text("#lines"))
        desktop.click("#reset")
        assert soon(lambda: "Start counting at 0?" in desktop.text("#ask"))
        desktop.click("#ask-ok")
        assert soon(lambda: not desktop.run("return document.querySelector('#ask').open"))


def test_a_friendly_page_asks_for_the_token(browser: Browser) -> None:
    """Wrong: it says so, and asks again. Right: the page, and the token is nowhere to be seen."""
    server = OneCamera("127.0.0.1:0", token=TOKEN)
    server.start()
    try:
        server.update(snapshot())
        browser.command("Network.clearBrowserCookies")
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            browser.open(f"http://127.0.0.1:{server.port}/")
            assert browser.text("h1") == "This camera is private"
            assert faults(browser) == []
        browser.type("#token", "not the token\ue007")
        assert soon(lambda: browser.text("#said") == "That is not the token.")
        browser.type("#token", f"{TOKEN}\ue007")
        assert soon(lambda: browser.text("#name") == "door")
        assert browser.url == f"http://127.0.0.1:{server.port}/"
    finally:
        server.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_history_and_events_are_shown_and_can_be_read_by_all(
    desktop: Browser, tmp_path: Path, scheme: str
) -> None:
    """Charts of today and of the week, events with their picture, links to report and table; AA contrast."""
    store, pictures = tmp_path / "shop.db", tmp_path / "events"
    shop.fill(store, time.time(), days=8)
    with closing(open_store(store)) as base:
        at, track = base.execute("SELECT time, track FROM event ORDER BY time DESC LIMIT 1").fetchone()
        kind, total = base.execute(
            "SELECT kind, (SELECT count(*) FROM event) FROM event ORDER BY time DESC"
        ).fetchone()
    day = datetime.fromtimestamp(at / 1000, timezone.utc)
    picture = pictures / f"{day:%Y-%m-%d}" / f"{at}-{kind}-{track}.jpg"
    picture.parent.mkdir(parents=True)
    cv2.imwrite(str(picture), shop.Film().frame(30)[0])
    desktop.prefer(scheme)
    scene = SceneOptions(lines=(parse_line("Front door=0.3,0.95,0.3,0.4"),))
    with shop.open_shop(scene, store, pictures=pictures) as server:
        desktop.open(server.url)
        assert soon(lambda: desktop.run("return document.querySelectorAll('#charts svg.chart').length"))
        bars = "return document.querySelectorAll('#charts svg.chart:first-of-type rect.bar').length"
        today = desktop.run(bars)
        desktop.click("#history [data-of=week]")
        hatched = "return document.querySelectorAll('#charts rect.gap').length"
        assert soon(lambda: desktop.run(bars) >= today)
        assert soon(lambda: desktop.run(hatched) > 0)  # two hours without a picture, in `fill`
        assert soon(lambda: desktop.run("return document.querySelector('#events img')?.naturalWidth") == 1280)
        before = desktop.run("return document.querySelectorAll('#events li').length")
        desktop.click("#older")
        assert soon(
            lambda: desktop.run("return document.querySelectorAll('#events li').length") >= before + 50
        )
        assert total > 100
        desktop.click("#engineer summary")
        assert faults(desktop) == []
        desktop.click("#edit")
        assert soon(lambda: desktop.text("#list .line") != "")
        assert faults(desktop) == []


def test_the_line_is_still_there_after_a_restart(desktop: Browser, tmp_path: Path) -> None:
    """Drawn on the page of a real process, before a camera on which somebody walks to and fro.

    The process is stopped and started again with the same file: it counts there, and its page counts what the
    store kept of the first run's paths.
    """
    config = tmp_path / "shop.toml"
    with mjpeg_server(path="/walk") as camera:
        text = f'# the shop\ncamera = "{camera.url}"  # by the window\nclasses = ["person"]\nthreads = 1\n'
        config.write_text(f'{text}serve = "127.0.0.1:0"\nstore = "shop.db"\nformat = "none"\n')
        for start in range(2):
            run = Detect("--config", config, folder=tmp_path)
            try:
                assert soon(lambda run=run: "Live page: " in run.said(), 60), run.said()
                url = re.search(r"Live page: (\S+)", run.said())
                assert url is not None
                edit(desktop, url[1])
                if start == 0:
                    desktop.click("#add-line")
                    desktop.draw(*places(desktop, (0.5, 0.99), (0.5, 0.05)))
                    rename(desktop, "Front door")
                    desktop.click("#save")
                    assert soon(lambda: "Saved in shop.toml" in desktop.text("#saved"))
                    desktop.click("#cancel")
                    counted = (
                        "return [...document.querySelectorAll('#lines b')].map(b => Number(b.textContent))"
                    )
                    assert soon(lambda c=counted: len(n := desktop.run(c)) == 2 and min(n) >= 1, 40)
                else:
                    assert soon(lambda: "Last hour" in desktop.text("#list"))
                    inward, outward = map(int, re.findall(r"\d+", desktop.text("#list .line p")))
                    assert inward >= 1
                    assert abs(inward - outward) <= 1
                    desktop.click("#cancel")
                    assert desktop.text("#lines h2") == "Front door"
                assert run.end() == 0
            finally:
                run.close()
        assert config.read_text().startswith(text)
