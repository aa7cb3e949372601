"""One request to a remote location: HTTP(S), S3, or whatever else fsspec knows. Retries are shards.remote's."""

from __future__ import annotations

import abc
import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from shards.store import StoreError, without_secrets

T = TypeVar("T")
SLOWEST = 2**15  # bytes/s below which a request that still trickles is given up
CONNECTIONS = 16
PACKAGES = {
    "http": "fsspec and aiohttp",
    "https": "fsspec and aiohttp",
    "s3": "fsspec and s3fs",
    "s3a": "fsspec and s3fs",
}
NO_RANGES = "the server ignores Range requests: use another server, or copy the shards to a local folder"
BUSY = frozenset({408, 425, 429})  # 5xx too


class Answer(NamedTuple):
    """Bytes, and the length they should have (None where the server does not say)."""

    data: bytes
    length: int | None


class TemporaryError(Exception):
    """Worth another attempt; the reason in a few words."""


class PermanentError(Exception):
    """Not worth another attempt: what is wrong, and what to do."""


class MissingError(Exception):
    """There is no such file."""


class DeniedError(Exception):
    """No permission."""


class EndError(Exception):
    """The range lies behind the end of the file."""


class Transport(abc.ABC):
    """Requests to one location."""

    listable = True

    @abc.abstractmethod
    def get(self, name: str, start: int, end: int | None) -> Answer:
        """Bytes `start` to `end` (None: the last one) of a file, fewer where it ends. Raises the errors above."""

    def sizes(self) -> dict[str, int] | None:
        """Bytes of every file at the location; None if it may not be listed. Raises the errors above."""
        return None


def connect(location: str, timeout: float) -> Transport:
    """The transport of a URL. Raises StoreError (a package missing, an unknown kind of URL)."""
    shown, scheme = without_secrets(location), location.partition(":")[0].lower()
    try:
        if scheme in ("http", "https"):
            return HttpTransport(location, timeout)
        if scheme in ("s3", "s3a"):
            return S3Transport(location, timeout)
        return OtherTransport(location)
    except ImportError as error:
        if needed := PACKAGES.get(scheme):
            raise StoreError(f"reading {shown} needs {needed}: pip install -e '.[remote]'") from None
        raise StoreError(f"reading {shown} is not possible: {one_line(error)}: install that package") from None
    except ValueError as error:
        raise StoreError(f"reading {shown} is not possible: {one_line(error)}: check the location") from None


def one_line(error: BaseException) -> str:
    """The first line of an error's text, URLs in it without secrets."""
    text = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"\S+://\S+", lambda match: without_secrets(match[0]), text)[:200] or type(error).__name__


def _run(filesystem: Any, ask: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
    """Run a coroutine in the file system's thread, at most so long. Connection errors become TemporaryError."""
    import aiohttp
    from fsspec.asyn import sync

    async def bounded() -> T:
        return await asyncio.wait_for(ask(), seconds)

    try:
        result: T = sync(filesystem.loop, bounded)
        return result
    except aiohttp.ClientConnectorCertificateError:
        raise PermanentError("the server's certificate is not trusted: check the location's host") from None
    except aiohttp.InvalidURL:
        raise PermanentError("this is no valid URL: check the location") from None
    except aiohttp.ClientConnectorError as error:
        raise TemporaryError(f"cannot connect ({error.os_error.strerror or 'host not found'})") from None
    except (asyncio.TimeoutError, TimeoutError):
        raise TemporaryError("no answer in time") from None
    except aiohttp.ClientError as error:
        raise TemporaryError(f"the connection broke ({type(error).__name__})") from None
    except ConnectionError as error:
        raise TemporaryError(f"the connection broke ({error.strerror or type(error).__name__})") from None


def _options(scheme: str, name: str) -> dict[str, Any]:
    """A dictionary-valued option of fsspec's own config, which arguments would replace rather than extend."""
    from fsspec.config import conf

    return dict(conf.get(scheme, {}).get(name, {}))


def _check_status(status: int) -> None:
    """Raises one of the errors above unless the status is a success."""
    if status in (404, 410):
        raise MissingError
    if status in (401, 403):
        raise DeniedError
    if status == 416:
        raise EndError
    if status in BUSY or status >= 500:
        raise TemporaryError(f"the server answered {status}")
    if status >= 300:
        raise PermanentError(f"the server answered {status}: check the location")


def _range(start: int, end: int | None) -> str:
    """A Range header. Whole files are asked for in this way too, because the answer tells how long they are."""
    return f"bytes={start}-{'' if end is None else end - 1}"


def _length_in(content_range: str | None, start: int, end: int | None) -> int:
    """Bytes that belong to the answer to a range request: up to `end` or the end of the file."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", (content_range or "").strip())
    if match is None or int(match[1]) != start:
        raise TemporaryError(f"the server answered with another range ({(content_range or 'none')[:60]})")
    stop = int(match[2]) + 1 if match[3] == "*" else int(match[3])
    return (stop if end is None else min(end, stop)) - start


def _most_seconds(timeout: float, start: int, end: int | None) -> float:
    """How long a request may take in all."""
    return 60 * timeout if end is None else 2 * timeout + (end - start) / SLOWEST


class HttpTransport(Transport):
    """A folder of an HTTP(S) server that knows Range requests."""

    listable = False

    def __init__(self, location: str, timeout: float):
        import aiohttp
        import fsspec

        scheme = location.partition(":")[0].lower()
        self._url = urlsplit(location)
        self._timeout = timeout
        self._timeouts = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        client = {"trust_env": True, **_options(scheme, "client_kwargs")}
        self._system = fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, client_kwargs=client
        )

    def get(self, name: str, start: int, end: int | None) -> Answer:
        return _run(self._system, lambda: self._get(name, start, end), _most_seconds(self._timeout, start, end))

    async def _get(self, name: str, start: int, end: int | None) -> Answer:
        options = dict(self._system.kwargs)
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity", "Range": _range(start, end)}
        url = self._system.encode_url(self._join(name))
        session = await self._system.set_session()
        async with session.get(url, **{"timeout": self._timeouts, **options}, headers=headers) as response:
            _check_status(response.status)
            if response.status != 206:
                raise PermanentError(NO_RANGES)
            length = _length_in(response.headers.get("Content-Range"), start, end)
            if (announced := response.content_length) not in (None, length):
                raise TemporaryError(f"{announced} of {length} bytes")
            return Answer(await _body(response.content, length), length)

    def _join(self, name: str) -> str:
        """A file's URL; the query (a signature, say) stays at the end."""
        path = f"{self._url.path.rstrip('/')}/{quote(name)}"
        return urlunsplit(self._url._replace(path=path, fragment=""))


async def _body(content: Any, length: int) -> bytes:
    """Up to `length` bytes; raises TemporaryError as soon as there are more."""
    pieces, size = [], 0
    async for piece in content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > length:
            raise TemporaryError(f"more than {length} bytes")
    return b"".join(pieces)


class S3Transport(Transport):
    """A folder of a bucket. Credentials, endpoint and region come from the usual environment and config files."""

    def __init__(self, location: str, timeout: float):
        import fsspec
        import s3fs  # noqa: F401 (named in the error where it is missing)

        self._timeout = timeout
        config = {
            **_options("s3", "config_kwargs"),
            "connect_timeout": timeout,
            "read_timeout": timeout,
            "max_pool_connections": CONNECTIONS,
            "retries": {"total_max_attempts": 1},
        }
        self._system = fsspec.filesystem(
            "s3", skip_instance_cache=True, use_listings_cache=False, config_kwargs=config
        )
        self._system.retries = 1
        self._folder = self._system._strip_protocol(without_secrets(location)).rstrip("/")

    def get(self, name: str, start: int, end: int | None) -> Answer:
        return self._run(lambda: self._get(name, start, end), _most_seconds(self._timeout, start, end))

    async def _get(self, name: str, start: int, end: int | None) -> Answer:
        bucket, key, _ = self._system.split_path(f"{self._folder}/{name}")
        answer = await self._system._call_s3("get_object", Bucket=bucket, Key=key, Range=_range(start, end))
        body = answer["Body"]
        try:
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
                raise PermanentError(NO_RANGES)
            length = _length_in(answer.get("ContentRange"), start, end)
            if (announced := answer.get("ContentLength")) not in (None, length):
                raise TemporaryError(f"{announced} of {length} bytes")
            return Answer(await body.read(), length)
        finally:
            body.close()

    def sizes(self) -> dict[str, int] | None:
        try:
            found = self._run(lambda: self._system._lsdir(self._folder), 60 * self._timeout)
        except DeniedError:
            return None
        return {item["name"].rpartition("/")[2]: item["size"] for item in found if item["type"] == "file"}

    def _run(self, ask: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
        """`_run`, and S3's errors."""
        from botocore import exceptions as boto
        from botocore.parsers import ResponseParserError

        lasting = (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.ProfileNotFound,
            boto.NoRegionError,
            boto.ParamValidationError,
        )
        try:
            return _run(self._system, ask, seconds)
        except FileNotFoundError:
            raise MissingError from None
        except PermissionError:
            raise DeniedError from None
        except lasting as error:
            advice = "check the credentials, endpoint and region in the environment"
            raise PermanentError(f"{one_line(error)}: {advice}") from None
        except (boto.BotoCoreError, ResponseParserError) as error:
            raise TemporaryError(f"the connection failed ({type(error).__name__})") from None
        except OSError as error:
            response = getattr(error.__cause__, "response", None) or {}
            _check_status(int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)))
            raise TemporaryError(f"the server answered {one_line(error)}") from None


class OtherTransport(Transport):
    """Any other URL of fsspec."""

    def __init__(self, location: str):
        from fsspec.core import url_to_fs

        self._system, folder = url_to_fs(location)
        self._folder = folder.rstrip("/")

    def get(self, name: str, start: int, end: int | None) -> Answer:
        path = f"{self._folder}/{name}"
        return self._run(lambda: Answer(self._system.cat_file(path, start=start, end=end), None))

    def sizes(self) -> dict[str, int] | None:
        found = self._run(lambda: self._system.ls(self._folder, detail=True))
        return {item["name"].rpartition("/")[2]: item["size"] for item in found if item["type"] == "file"}

    def _run(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except FileNotFoundError:
            raise MissingError from None
        except PermissionError:
            raise DeniedError from None
        except Exception as error:  # every file system has errors of its own
            raise TemporaryError(one_line(error)) from None
