"""An RTSP server (H.264) for tests: `/usr/bin/python3 rtsp_server.py PORT [PICTURE]`, at rtsp://127.0.0.1:PORT/cam.

It runs under the system's Python because GStreamer's bindings come from apt (servers.py lists the packages),
and so it imports nothing else. Without PICTURE each frame carries its number, see `number_now` in servers.py;
with PICTURE (a JPEG file) it shows that, scaled to 640x360.
"""

from __future__ import annotations

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  (after the versions are chosen)

FPS, WIDTH, HEIGHT, CELL = 30, 320, 160, 40
ENCODE = (
    f"videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={FPS} ! "
    "rtph264pay name=pay0 pt=96"
)


def numbered(number: int) -> bytes:
    """(160, 320) grey picture: 8x4 squares, white for 1; 16 bits of the number, then the bits inverted."""
    bits = [(number >> i) & 1 for i in range(16)]
    bits += [1 - bit for bit in bits]
    rows = []
    for y in range(4):
        line = b"".join((b"\xeb" if bits[8 * y + x] else b"\x10") * CELL for x in range(8))
        rows.append(line * CELL)
    return b"".join(rows)


class Factory(GstRtspServer.RTSPMediaFactory):
    """A pipeline for each client."""

    def __init__(self, picture: str | None) -> None:
        """picture: path of a JPEG file, or None for numbers."""
        super().__init__()
        if picture is None:
            caps = f"video/x-raw,format=GRAY8,width={WIDTH},height={HEIGHT},framerate={FPS}/1"
            options = "is-live=true format=time do-timestamp=true block=true max-bytes=1"
            source = f"appsrc name=numbers {options} caps={caps}"
        else:
            still = f'filesrc location="{picture}" ! jpegdec ! imagefreeze is-live=true'
            source = (
                f"{still} ! videoconvert ! videoscale ! video/x-raw,width=640,height=360,framerate={FPS}/1"
            )
        self.set_launch(f"( {source} ! {ENCODE} )")

    def do_configure(self, media: GstRtspServer.RTSPMedia) -> None:
        """Feed the numbered pictures, each when its time has come."""
        source = media.get_element().get_by_name("numbers")
        if source is not None:
            source.connect("need-data", self.feed)

    @staticmethod
    def feed(source: Gst.Element, _: int) -> None:
        """One picture at the next thirtieth of a second."""
        number = int(time.monotonic() * FPS) + 1
        time.sleep(max(0.0, number / FPS - time.monotonic()))
        source.emit("push-buffer", Gst.Buffer.new_wrapped(numbered(number & 0xFFFF)))


def main() -> None:
    """Serve until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
    server.get_mount_points().add_factory("/cam", Factory(sys.argv[2] if len(sys.argv) > 2 else None))
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
