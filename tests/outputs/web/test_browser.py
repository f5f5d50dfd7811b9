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
from dataclasses import replace

import pytest
from browser import NEEDS, Browser, find_programs, pixels, soon
from live_support import CLASSES, FOUND, OneCamera, feed, snapshot

from edge_centernet.outputs.annotate import Overlay
from edge_centernet.outputs.web.server import WebServer
from edge_centernet.outputs.web.view import View
from edge_centernet.sources import CaptureState
from edge_centernet.tracking.state import LineCount, Snapshot, Tally, ZoneCount

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


def test_long_names_fit_a_phone(browser: Browser, server: OneCamera) -> None:
    """Names come from users: they may be long, and are text, whatever they hold."""
    name = "<img src=x onerror=document.title='taken'> " + "a" * 80
    tally = Tally((LineCount(name, 123456, 654321),), (ZoneCount(name, 123, 456789, 86400.0, 3600.0),))
    server.update(replace(snapshot(), tally=tally))
    browser.open(server.url)
    assert soon(lambda: name in browser.text("#lines") and name in browser.text("#zones"))
    broken = """
        return [...document.querySelectorAll("td")].filter(cell => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            return text.getClientRects().length !== 1;
        }).map(cell => cell.textContent);
    """
    assert browser.run(broken) == []  # each number stands in one line
    assert browser.run("return document.title") == "Live – edge-centernet"
    assert browser.run("return document.documentElement.scrollWidth") == 390


def test_the_counts_are_those_of_the_newest_result(browser: Browser, server: OneCamera) -> None:
    """Lines, zones, objects, speed, in words and numbers."""
    server.update(full(snapshot(7)))
    browser.open(server.url)
    assert soon(lambda: browser.text("#lines tbody").split() == ["front", "door", "7", "14"])
    assert browser.text("#zones tbody").split() == ["sofa", "1", "7", "4.6", "s", "75", "s"]
    assert browser.text("#detections").split() == ["cat", "1", "person", "1"]
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
    }
    server.update(replace(full(snapshot(8)), found=FOUND[:1]))
    assert soon(lambda: browser.text("#lines tbody").split() == ["front", "door", "8", "16"])
    assert browser.text("#detections").split() == ["person", "1"]
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
        *_, inward, outward = browser.text("#lines tbody").split()
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
        assert soon(lambda: browser.text("#age").endswith(" old"))
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
    """The page works by its cookie afterwards, also when opened again; another browser's page gets 401."""
    server = OneCamera("127.0.0.1:0", token=TOKEN)
    server.start()
    bare = f"http://127.0.0.1:{server.port}/"
    try:
        with feed(server.update):
            browser.open(bare)
            assert browser.text("body").strip() == "401"
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
        browser.run("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        time.sleep(0.5)
        first = pixels(browser)
        time.sleep(1.0)
        assert pixels(browser) == first
        browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        assert soon(lambda: pixels(browser) != first)


def test_every_number_has_a_name_that_a_screen_reader_says(browser: Browser, server: OneCamera) -> None:
    """Row and column headers, terms, a text for the picture, live regions for what changes by itself."""
    server.update(full(snapshot(7)))
    browser.open(server.url)
    assert soon(lambda: browser.text("#lines") != "")
    assert (
        browser.run("return [...document.querySelectorAll('th')].filter(th => !th.scope && th.textContent)")
        == []
    )
    assert browser.run("return document.querySelector('#picture').alt") != ""
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
