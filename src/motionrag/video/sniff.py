"""What a file is by its first bytes and its own structure: names what is not a video, and notices missing tails.

FFmpeg takes anything it can make sense of and says "Invalid data" of the rest; people want to know which.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from motionrag.video.errors import VideoError
from motionrag.video.files import os_reason

HEAD_BYTES = 512
_LARGEST_INDEX = 1 << 26

_OTHERS = (  # first bytes -> reason
    (b"version https://git-lfs", "is a git-lfs pointer, not the video; run git lfs pull"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (b"PK\x05\x06", "is an empty zip archive"),
    (b"\x1f\x8b", "is a gzip archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (b"Rar!", "is a rar archive; unpack it first"),
    (b"%PDF", "is a PDF document, not a video"),
    (b"\x89PNG\r\n", "is a still image (PNG), not a video"),
    (b"\xff\xd8\xff", "is a still image (JPEG), not a video"),
    (b"BM", "is a still image (BMP), not a video"),
)
_PICTURE_BRANDS = {b"avif": "AVIF", b"heic": "HEIC", b"mif1": "HEIF"}


def read_head(path: str) -> bytes:
    """The first bytes of a video, as far as it may be one.

    Raises:
        VideoError: If it is missing, unreadable, empty, no regular file, or plainly something else.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise VideoError(path, "is a folder" if stat.S_ISDIR(mode) else "is not a regular file")
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise VideoError(path, f"is a broken link to {os.readlink(path)}") from error
        raise VideoError(path, "no such file") from error
    except OSError as error:
        raise VideoError(path, os_reason(error)) from error
    if complaint := _not_a_video(head):
        raise VideoError(path, complaint)
    return head


def _not_a_video(head: bytes) -> str | None:
    if not head:
        return "empty file"
    for magic, reason in _OTHERS:
        if head.startswith(magic):
            return reason
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
        return f"is a still image ({_PICTURE_BRANDS[head[8:12]]}), not a video"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page (HTML), not a video; fetch the video itself"
    if not head.strip(b"\0"):
        return "begins with zeros only, as an unfinished download does; fetch it again"
    return "is text, not a video" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Whether all of it is printable; no video format starts with that many printable bytes."""
    try:
        text = head[: len(head) - 4 if len(head) == HEAD_BYTES else None].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\r\n\t" for char in text)


def unreadable(path: str, head: bytes) -> str:
    """Why FFmpeg could not open a file at all, or found no streams in it."""
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free"}:
        with open(path, "rb") as file:
            boxes = {name for name, _, _ in _boxes(file)}
        if b"moov" not in boxes:
            return "cut short: its index (moov), which is written last, is missing; fetch or record it again"
        return "damaged: its index (moov) cannot be read"
    if tail := missing_tail(path, head):
        return f"cut short: {tail}; fetch or record it again"
    if head.startswith((b"\x1aE\xdf\xa3", b"RIFF", b"GIF8")):
        return "damaged: its header cannot be read"
    return "not a video: no known format"


def missing_tail(path: str, head: bytes) -> str | None:
    """How much is there if a file says itself that it should be longer; None if it is whole or does not say.

    MP4 boxes, the segment of Matroska and WebM, RIFF chunks (AVI, WebP) and GIF blocks carry their lengths.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"styp"}:
            expected = max((start + length for _, start, length in _boxes(file)), default=0)
        elif head.startswith(b"\x1aE\xdf\xa3"):
            expected = _matroska_end(head)
        elif head.startswith(b"RIFF"):
            expected = int.from_bytes(head[4:8], "little") + 8
            expected = 0 if expected >= 0xFFFFFFF0 else expected  # streamed: the length was never filled in
        elif head.startswith(b"GIF8"):
            return None if _gif_ends(file) else "the last block is incomplete"
        else:
            expected = 0
    return f"{size:,} of {expected:,} bytes are there" if expected > size else None


def mp4_index(path: str) -> bytes:
    """The index (moov) of an MP4 or MOV file; empty if there is none or for other formats."""
    with open(path, "rb") as file:
        for name, start, length in _boxes(file):
            if name == b"moov":
                file.seek(start)
                return file.read(min(length, _LARGEST_INDEX))
    return b""


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length in bytes of the top-level boxes of an MP4 or MOV file."""
    end, start = file.seek(0, os.SEEK_END), 0
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # a 64-bit length follows the name
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # up to the end of the file
            length = end - start
        if length < 8 or not header[4:8].isascii():
            return
        yield header[4:8], start, length
        start += length


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends, in bytes; 0 if its header does not say."""
    length, at = _vint(head, 4)
    at += length
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    length, at = _vint(head, at + 4)
    return at + length if length else 0


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """An EBML length and the offset behind it; 0 stands for "unknown"."""
    if at >= len(data) or not data[at]:
        return 0, at
    width = 9 - data[at].bit_length()
    mask = (1 << 7 * width) - 1
    value = int.from_bytes(data[at : at + width], "big") & mask
    return (0 if value == mask else value), at + width


def _gif_ends(file: BinaryIO) -> bool:
    """Whether the blocks of a GIF are whole up to its trailer."""
    data = file.read()
    at = 13 + _palette_bytes(data[10:11])
    while at < len(data):
        if data[at] == 0x3B:
            return True
        if data[at] == 0x21:
            at += 2
        elif data[at] == 0x2C:
            at += 11 + _palette_bytes(data[at + 9 : at + 10])
        else:
            return False
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    return False


def _palette_bytes(flags: bytes) -> int:
    """Length of the colour table that a GIF flag byte announces."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0
