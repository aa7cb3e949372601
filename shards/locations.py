"""From a path or URL to its store."""

from __future__ import annotations

import re
from pathlib import Path

from shards.errors import UsageError
from shards.store import CACHE_BYTES, LEAST_CACHE_BYTES, LocalStore, Store


def open_store(
    location: str | Path,
    *,
    cache_dir: str | Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    attempts: int = 5,
    timeout: float = 30.0,
    version: str = "",
) -> Store:
    """The store of a folder or of any URL that fsspec knows (http, https, s3, …).

    The rest is for remote locations: `cache_dir` (default: flicker/blocks in the user's cache folder) keeps up to
    `cache_bytes` of fetched blocks for all processes of this machine; `version` names the state of the files, for
    example the manifest's digest: blocks kept under one version are not served to another, and without one they serve
    only this store and those opened with its `arguments()`. `attempts` per request; `timeout` in seconds to connect
    and without any byte received. Credentials come from the environment and the libraries' own config files.

    Raises UsageError: a value out of range; StoreError: an unknown kind of URL, a package missing, a `cache_dir` that
    cannot be made.
    """
    if not is_remote(location):
        return LocalStore(Path(re.sub(r"^(file|local)://", "", str(location))))
    if cache_bytes < LEAST_CACHE_BYTES:
        raise UsageError(f"cache_bytes {cache_bytes} is too small: give {LEAST_CACHE_BYTES} (64 MiB) or more")
    if attempts < 1 or not timeout > 0:
        raise UsageError(f"attempts {attempts} must be 1 or more, timeout {timeout:g} s above 0")
    from shards.remote import RemoteStore

    return RemoteStore(
        str(location),
        cache_dir=None if cache_dir is None else Path(cache_dir),
        cache_bytes=cache_bytes,
        attempts=attempts,
        timeout=timeout,
        version=version,
    )


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL of another machine rather than a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(::|://)", str(location))
    return match is not None and match[1].lower() not in ("file", "local")
