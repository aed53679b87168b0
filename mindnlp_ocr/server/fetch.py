"""Download of images from hosts that the operator allows: no private addresses, no redirects, limits on size and time."""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from mindnlp_ocr.server.errors import ApiError

SECONDS = 20.0
CHUNK = 1 << 16
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Networks whose addresses embed an IPv4 address that other machines may translate to.
TUNNELS = [ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]


class Fetcher:
    """Downloads images. It connects to the address that it has checked, which prevents DNS rebinding.

    Args:
        hosts: allowed host names, with a port unless it is the default one.
        most: maximum size of an image in bytes.
        seconds: time limit of a download.
    """

    def __init__(self, hosts: Sequence[str], most: int, seconds: float = SECONDS) -> None:
        self._hosts, self._most, self._seconds = {host.lower() for host in hosts}, most, seconds
        self._tls = ssl.create_default_context()

    def __call__(self, url: str) -> bytes:
        """Return the bytes at a URL. Runs in a thread of a pool.

        Raises:
            ApiError: the host is not allowed, has a private address, redirects, or sends too much or too slowly.
        """
        parts = self._checked(url)
        end = time.monotonic() + self._seconds
        try:
            return self._get(parts, end)
        except (OSError, http.client.HTTPException) as error:
            reason = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
            raise _refused(url, f"could not be fetched ({reason})") from error

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            name, port = (parts.hostname or "").lower(), parts.port
        except ValueError as error:
            raise _refused(url, "is not a valid address") from error
        if parts.username is not None or parts.password is not None or not url.isascii() or not url.isprintable():
            raise _refused(url, "is not a valid address")
        if (f"{name}:{port}" if port else name) not in self._hosts:
            raise _refused(url, "is not on a host from which this server may fetch (--allow-url)")
        return parts

    def _get(self, parts: SplitResult, end: float) -> bytes:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = str(parts.hostname)
        connection = http.client.HTTPConnection(host, port)
        with self._connected(host, port, end) as plain:
            sock = self._tls.wrap_socket(plain, server_hostname=host) if parts.scheme == "https" else plain
            connection.sock = sock
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "mindnlp-ocr"})
                answer = connection.getresponse()
                if answer.status != 200:
                    raise _refused(parts.geturl(), f"answers {answer.status}; redirects are not followed")
                return self._body(answer, sock, end, parts.geturl())
            finally:
                connection.close()

    def _connected(self, host: str, port: int, end: float) -> socket.socket:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or not all(public(address) for address in addresses):
            raise _refused(f"//{host}", "has an address that is not public")
        return socket.create_connection((str(addresses[0]), port), timeout=max(0.1, end - time.monotonic()))

    def _body(self, answer: http.client.HTTPResponse, sock: socket.socket, end: float, url: str) -> bytes:
        parts, size = list[bytes](), 0
        while True:
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError
            sock.settimeout(left)
            part = answer.read1(CHUNK)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if size > self._most:
                raise _refused(url, f"sends more than {self._most} bytes")


def public(address: Address) -> bool:
    """Return whether an address is public: not of this machine, a private network, or a cloud's metadata service."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return public(address.ipv4_mapped)
        if any(address in network for network in TUNNELS):
            return False
    return address.is_global and not address.is_multicast


def _refused(url: str, why: str) -> ApiError:
    return ApiError(f"{url[:80]!r} {why}: send the image as a data URL", param="messages", code="url_not_allowed")
