"""Files as such: hashing one, and writing one so that it is either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from motionrag.video.errors import VideoError

_BLOCK = 1 << 20


def content_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as 64 hex digits.

    Raises:
        VideoError: If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise VideoError(path, "is no regular file but a pipe, socket or device")
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise VideoError(path, os_reason(error)) from error
    return digest.hexdigest()


def os_reason(error: OSError) -> str:
    """What the operating system complained of, in house words."""
    known = {
        errno.ENOENT: "no such file",
        errno.EISDIR: "is a folder",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the disk is read-only",
        errno.ENAMETOOLONG: "the name is too long",
    }
    return known.get(error.errno or 0) or (os.strerror(error.errno).lower() if error.errno else str(error))


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; when the block succeeds it becomes `path`, otherwise it is removed.

    Raises:
        VideoError: If the folder is missing or the file cannot be written, say because the disk is full.
    """
    if not path.parent.is_dir():
        raise VideoError(path, f"there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise VideoError(path, "is a folder")
    temporary = path.with_name(f".{os.getpid()}.{path.name[-100:]}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise VideoError(path, f"cannot be written: {os_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
