"""Servers on loopback: HTTP with ranges and with faults to order, and S3 (moto) that can be reached through it."""

from __future__ import annotations

import contextlib
import http.client
import logging
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from shards.remote import RemoteStore

FAULTS = ("drop", "cut", "short", "lie", "other", "chunks", "long", "busy", "slow")
"""drop: the connection ends after half of the body; cut: the same, after 7 bytes; short: half of the body and a
Content-Length that says so; lie: the same, and a Content-Range that says so; chunks: the same without any length;
other: the bytes after those asked for; long: more than was asked for; busy: status 503; slow: an answer after `delay`
seconds"""
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Reply:
    """What a server without faults would answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A running HTTP server; `faults` are used up, one per request, then a `share` of the requests gets one."""

    url: str
    folder: Path | None
    upstream: tuple[str, int] | None
    faults: list[str] = field(default_factory=list)
    share: float = 0.0
    kinds: tuple[str, ...] = ("drop", "cut", "short", "busy")
    most: int = 10**9
    """faults for one and the same request, by `share`"""
    delay: float = 0.0
    ranges: bool = True
    statuses: dict[str, int] = field(default_factory=dict)
    """name -> status that every request for it gets"""
    requests: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    """(name, first byte, last byte + 1 or None) of every request for a file"""
    headers: list[dict[str, str]] = field(default_factory=list)
    listings: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, request: tuple[str, int | None, int | None]) -> str:
        """The fault of a request, or nothing."""
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
            spoiled = self.requests.count(request) <= self.most and self.chance.random() < self.share
            return self.chance.choice(self.kinds) if spoiled else ""

    def bytes_asked(self) -> int:
        """Bytes of all ranges that were asked for."""
        return sum(end - start for _, start, end in self.requests if start is not None and end is not None)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    serving: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, name = self.serving, self.path.partition("?")[0].rpartition("/")[2]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        span = (int(match[1]), int(match[2]) + 1 if match[2] else None) if match else None
        is_file = "list-type" not in self.path
        request = (name, *(span or (None, None)))
        if is_file:
            with server.lock:
                server.requests.append(request)
                server.headers.append(dict(self.headers))
        else:
            server.listings += 1
        if name in server.statuses:
            return self._answer(Reply(server.statuses[name], {}, b"no"))
        reply = self._forward() if server.upstream else self._read(name, span)
        fault = server.next_fault(request) if is_file and reply.status in (200, 206) else ""
        if fault in ("", "slow"):
            time.sleep(server.delay if fault or not server.faults else 0)
            self._answer(reply)
        else:
            self._spoil(reply, fault, span[0] if span else 0)

    do_HEAD = do_GET

    def _read(self, name: str, span: tuple[int, int | None] | None) -> Reply:
        assert self.serving.folder is not None
        path = self.serving.folder / name
        if not path.is_file():
            return Reply(404, {}, b"no such file")
        size = path.stat().st_size
        if span is None or not self.serving.ranges:
            return Reply(200, {}, path.read_bytes())
        if span[0] >= size:
            return Reply(416, {"Content-Range": f"bytes */{size}"}, b"")
        end = min(span[1] or size, size)
        with path.open("rb") as file:
            file.seek(span[0])
            body = file.read(end - span[0])
        return Reply(206, {"Content-Range": f"bytes {span[0]}-{end - 1}/{size}"}, body)

    def _forward(self) -> Reply:
        """Ask the server behind; the signature stays as it is."""
        assert self.serving.upstream is not None
        connection = http.client.HTTPConnection(*self.serving.upstream)
        try:
            connection.request(self.command, self.path, headers=dict(self.headers))
            response = connection.getresponse()
            dropped = {"content-length", "connection", "transfer-encoding", "server", "date"}
            headers = {name.title(): value for name, value in response.getheaders() if name.lower() not in dropped}
            return Reply(response.status, headers, response.read())
        finally:
            connection.close()

    def _spoil(self, reply: Reply, fault: str, start: int) -> None:
        half = len(reply.body) // 2
        if fault == "busy":
            self._answer(Reply(503, {}, b"busy"))
        elif fault == "long":
            self._answer(Reply(reply.status, reply.headers, reply.body + b"more"))
        elif fault in ("short", "lie"):
            headers = dict(reply.headers)
            if fault == "lie":
                total = reply.headers["Content-Range"].rpartition("/")[2]
                headers["Content-Range"] = f"bytes {start}-{start + half - 1}/{total}"
            self._answer(Reply(reply.status, headers, reply.body[:half]))
        elif fault == "other":
            headers = {
                **reply.headers,
                "Content-Range": reply.headers["Content-Range"].replace(f" {start}-", f" {start + 1}-"),
            }
            self._answer(Reply(reply.status, headers, reply.body))
        elif fault == "chunks":
            self._answer(Reply(reply.status, {**reply.headers, "Transfer-Encoding": "chunked"}, reply.body[:half]))
        else:
            self._answer(reply, only=half if fault == "drop" else 7)

    def _answer(self, reply: Reply, only: int | None = None) -> None:
        """Send; after `only` bytes of the body end the connection."""
        with contextlib.suppress(ConnectionError):
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            chunked = "Transfer-Encoding" in reply.headers
            if not chunked:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(reply.body), reply.body)
                self.wfile.write(chunks if chunked else reply.body[:only])
        if only is not None:
            self.close_connection = True


@contextlib.contextmanager
def http_server(folder: Path | None = None, upstream: tuple[str, int] | None = None) -> Iterator[Server]:
    """Serve a folder's files, or what another server answers."""
    handler = type("Handler", (_Handler,), {})
    server = _Listener(("127.0.0.1", 0), handler)
    handler.serving = Server(f"http://127.0.0.1:{server.server_address[1]}", folder, upstream)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield handler.serving  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """moto's S3 server: (host, port)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()


def upload(endpoint: tuple[str, int], bucket: str, prefix: str, files: dict[str, bytes]) -> None:
    """Put files into a bucket, made where it is missing."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://{endpoint[0]}:{endpoint[1]}",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket=bucket)
    for name, data in files.items():
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)


def disk_bytes(folder: Path) -> int:
    """Bytes of all files below a folder that changes meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def read_randomly(url: str, cache: str, original: str, seed: int, limit: int, reads: int) -> None:
    """What a process of its own runs: random reads compared with the file; ends with an error where they differ."""
    data, chance = Path(original).read_bytes(), random.Random(seed)
    store = quick(url, Path(cache), cache_bytes=limit, version="1")
    for _ in range(reads):
        start = chance.randrange(len(data) - 20_000)
        length = chance.randrange(1, 20_000)
        if chance.random() < 0.3:
            store.hint(Path(original).name, *(chance.randrange(len(data) - 9000), 9000))
        assert store.read(Path(original).name, start, length) == data[start : start + length]
    assert store.counts["bytes_fetched"] > 3 * limit
    store.close()


def quick(url: str, cache: Path, **options: Any) -> RemoteStore:
    """A store with small blocks and short pauses."""
    settings = {"cache_bytes": 2**26, "block_bytes": 4096, "pause": 0.001, "timeout": 5.0, **options}
    return RemoteStore(url, cache_dir=cache, **settings)
