"""Where the live page listens, and who may see it."""

from __future__ import annotations

import enum
import errno
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import time

from edge_centernet.errors import ConfigError

TOKEN_VARIABLE = "EDGE_CENTERNET_TOKEN"
_MIN_TOKEN = 8  # characters
GUESSES_S = 60  # seconds in which one network may show _MAX_GUESSES different wrong tokens
_MAX_GUESSES = 10
_MAX_NETWORKS = 1024  # whose guesses are remembered
_LOCAL = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "8080", ":8080", "HOST:PORT" or "[IPv6]:PORT"; without a host it is 127.0.0.1.

    Port 0 takes any that is free. Raises ConfigError for anything else.
    """
    host, _, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and not bracketed):
        raise ConfigError(f"address to serve on: expected HOST:PORT, PORT or [IPv6]:PORT, got {text!r}")
    return host.strip("[]") or _LOCAL, int(port)


def is_loopback(host: str) -> bool:
    """Whether only programs on this computer can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def choose_token(given: str | None, host: str) -> str:
    """What viewers must present, "" for nothing: as given, else from the environment, else random.

    A loopback address needs none: who can open it has an account on this computer.
    Raises ConfigError for one that is too short to be secret.
    """
    token = given or os.environ.get(TOKEN_VARIABLE, "")
    if token and len(token) < _MIN_TOKEN:
        raise ConfigError(f"token: expected at least {_MIN_TOKEN} characters, got {len(token)}")
    return token or ("" if is_loopback(host) else secrets.token_urlsafe(24))


def network_of(address: str) -> str:
    """All addresses that one sender can choose from: an IPv4 address, an IPv6 network of 64 bits."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])  # fe80::1%eth0
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Verdict(enum.Enum):
    """What `Guard.judge` says of a request."""

    ADMITTED = enum.auto()
    UNKNOWN = enum.auto()  # no token, or a wrong one
    LIMITED = enum.auto()  # too many wrong ones from there; not even looked at


class Guard:
    """Decides on requests. token: what they must present, "" for nothing. host: where the server listens.

    Who wants to change something must present `secret`: the token, or a random one where looking needs none.
    """

    def __init__(self, token: str, host: str) -> None:
        """See the class."""
        self.token = token
        self.secret = token or secrets.token_urlsafe(24)
        self._host = host.lower()
        self._wrong: dict[str, dict[bytes, float]] = {}  # by network: a token's digest, when it was shown
        # Not the token itself: it may hold characters that a cookie cannot, and cookie files lie about.
        self.cookie = self._derived(b"edge-centernet live page")
        # What the page shows in a header with each change. A page of another site can have the browser send
        # the cookie along, but can neither read this nor set a header.
        self.key = self._derived(b"edge-centernet changes")

    def _derived(self, purpose: bytes) -> str:
        return hmac.digest(self.secret.encode(), purpose, hashlib.sha256).hex()

    def knows_host(self, name: str) -> bool:
        """Whether a request for this host name is meant for us.

        Without a token, a web page from elsewhere could have its own name point here (DNS rebinding) and read
        along.
        """
        name = name.lower().strip("[]")
        return bool(self.token) or name == self._host or is_loopback(name)

    def judge(self, network: str, query: str, authorization: str, cookie: str) -> Verdict:
        """Whether the request may look; arguments as for `identify`."""
        return self.identify(network, query, authorization, cookie) if self.token else Verdict.ADMITTED

    def identify(
        self, network: str, query: str = "", authorization: str = "", cookie: str = "", key: str = ""
    ) -> Verdict:
        """Whether one of the last four holds the secret; each "" where the request has none.

        Args:
            network: where it is from, see `network_of`.
            query: the token in the address or in a form.
            authorization: the header, "Bearer TOKEN".
            cookie: what the page got for the token.
            key: what the page shows when it changes something.

        Different wrong ones are counted for each network (`network_of`). The same one again is no guess: a
        page that was open when the token changed asks with its old cookie all day.
        """
        bearer = authorization[7:] if authorization[:7].lower() == "bearer " else ""
        shown = ((query, self.secret), (bearer, self.secret), (cookie, self.cookie), (key, self.key))
        if not any(text for text, _ in shown):
            return Verdict.UNKNOWN
        now = time.monotonic()
        wrong = self._wrong.get(network, {})
        wrong = {digest: at for digest, at in wrong.items() if now - at < GUESSES_S}
        if len(wrong) >= _MAX_GUESSES:
            return Verdict.LIMITED
        # In constant time, so that nobody can find the token character by character from the time it takes.
        if any(hmac.compare_digest(text.encode(), secret.encode()) for text, secret in shown):
            return Verdict.ADMITTED
        for text, _ in shown:
            if text:
                wrong.setdefault(hashlib.sha256(text.encode()).digest(), now)
        self._wrong.pop(network, None)
        self._wrong[network] = wrong  # at the end: the first one is the one that was quiet longest
        if len(self._wrong) > _MAX_NETWORKS:
            del self._wrong[next(iter(self._wrong))]
        return Verdict.UNKNOWN


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of the host. Raises ConfigError when that cannot be."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Sorted, so that IPv4 comes first.
        for family, address in sorted({(family, (str(at[0]), port)) for family, _, _, _, at in found}):
            try:
                if sockets:  # a name with two addresses: the same port on both, also when any will do
                    address = (address[0], sockets[0].getsockname()[1])
                both = host == "::" and socket.has_dualstack_ipv6()
                sockets.append(socket.create_server(address, family=family, dualstack_ipv6=both))
            except OSError as error:
                # localhost is ::1 too on computers without IPv6.
                if not (sockets and error.errno == errno.EADDRNOTAVAIL):
                    raise
    except OSError as error:
        for opened in sockets:
            opened.close()
        reason = "this computer does not have that address; expected one of its own, 127.0.0.1 or 0.0.0.0"
        if error.errno == errno.EADDRINUSE:
            reason = "the port is in use; choose another one (--serve 8081), or stop the program that has it"
        elif error.errno in (errno.EACCES, errno.EPERM):
            reason = "not permitted; choose a port from 1024 up"
        raise ConfigError(f"cannot serve on {_with_port(host, port)}: {reason}") from None
    for opened in sockets:
        opened.setblocking(False)
        # Connections inherit it: no seconds of old images queue in the kernel.
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 16)
    return sockets


def reachable(host: str, port: int) -> str:
    """HOST:PORT for a viewer's address bar; of a server on every address, the one on the network."""
    try:
        unspecified = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        unspecified = False
    if unspecified:
        # The address that packets to the world would carry. Connecting a UDP socket sends none.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
                host = str(probe.getsockname()[0])
            except OSError:
                host = socket.gethostname()
    return _with_port(host, port)


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
