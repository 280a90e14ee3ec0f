"""Tables of clips as they lie on disk: JSON lines, CSV, TSV and Parquet, their rows and the values in them.

A row that cannot be read is told with its place; only a file that is unreadable as a whole is an error.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from motionrag.errors import MotionRAGError

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".gif", ".webp", ".mpg", ".mpeg", ".ts", ".wmv"}
VIDEO_SUFFIXES |= {".flv", ".ogv", ".3gp"}
TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
VALUE_LIMIT = 2**20  # characters of a CSV value; also bounds how far a quote that nobody closes is followed
EXACT = 2**53  # integers up to here are exact as floats
NUMBER = re.compile(r"\s*-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what UTF-8, file systems or databases do not take
Row = dict[str, Any] | str


@dataclass(frozen=True)
class Table:
    """A table, read."""

    rows: list[tuple[str, Row]]
    """(where it stands, row); a row that cannot be read is its complaint, as text."""
    columns: list[str]
    """Those that any row has, in order of appearance."""
    numeric: frozenset[str] = frozenset()
    """Columns of texts (CSV, TSV) in which every value is a plain number."""


def read_table(path: Path) -> Table:
    """Read a table by its suffix.

    Raises:
        MotionRAGError: If it cannot be read, is not UTF-8 or not Parquet, or its header is broken.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MotionRAGError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise MotionRAGError(f"{path}: is not UTF-8 text ({error}); save it as UTF-8") from error
    if suffix == ".jsonl":
        return _json_lines(text, escaped(path.name))
    before = csv.field_size_limit(VALUE_LIMIT)
    try:
        return _delimited(text, path, "\t" if suffix == ".tsv" else ",")
    finally:
        csv.field_size_limit(before)


def escaped(text: str) -> str:
    r"""Text with NUL, lone surrogates and the bytes of names that are not UTF-8 written out: `\x00`, `\ud800`."""
    return NO_TEXT.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as `os.fsdecode` gives it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def apart(name: str, taken: Iterable[str]) -> str:
    """The name, with `_2`, `_3`, ... if it is taken."""
    count, found = 1, name
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found


def number(text: str) -> int | float:
    """A value of a numeric column."""
    return int(text) if re.fullmatch(r"\s*-?\d+\s*", text) else float(text)


def plain(value: Any) -> str | float | bool | None:
    """A value as text, number, truth value or None; lists and objects become JSON.

    Raises:
        RecursionError: If it is nested too deeply.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT else str(value)
    if isinstance(value, (Real, Decimal)):
        return float(value) if math.isfinite(float(value)) else None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(_nested(value), ensure_ascii=False)
    return escaped(_decoded(value) if isinstance(value, bytes) else str(value))


def _nested(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _nested(inner) for name, inner in value.items()}
    return [_nested(inner) for inner in value] if isinstance(value, (list, tuple)) else plain(value)


def _decoded(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return value.hex() if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text) else text


# -- JSON lines


def _json_lines(text: str, name: str) -> Table:
    lines = enumerate(text.split("\n"), start=1)  # not splitlines: captions may hold U+2028 and the like
    rows = [(f"{name} line {number}", _json_row(line)) for number, line in lines if line.strip()]
    columns = {column: None for _, row in rows if isinstance(row, dict) for column in row}
    return Table(rows, list(columns))


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not valid JSON ({error.msg})"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        return f"is not usable JSON ({error})"
    return row if isinstance(row, dict) else "is no JSON object"


# -- CSV and TSV


def _delimited(text: str, path: Path, delimiter: str) -> Table:
    lines = list(io.StringIO(text if text.endswith(("\n", "\r")) else f"{text}\n", newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for name in next((cells for cells in reader if cells), []):
            header.append(apart(name, header))
    except csv.Error as error:
        raise MotionRAGError(f"{path}: its header, line 1, cannot be read ({error})") from error

    def resembles_row(line: str) -> bool:
        cells = next(csv.reader([line], delimiter=delimiter), [])
        return len(cells) == len(header) > 1 and any(_is_video(cell) for cell in cells)

    rows = [
        (f"{escaped(path.name)} line {number}", _named(cells, header) if isinstance(cells, list) else cells)
        for number, cells in _records(lines, reader.line_num, delimiter, resembles_row)
        if cells
    ]
    sound = [row for _, row in rows if isinstance(row, dict)]
    return Table(rows, header, frozenset(name for name in header if _numeric(row[name] for row in sound)))


def _is_video(cell: str) -> bool:
    return Path(cell.strip(' "')).suffix.lower() in VIDEO_SUFFIXES


def _named(cells: list[str], header: Sequence[str]) -> Row:
    if len(cells) > len(header):
        return "has more values than the header has names"
    values = [cell if cell.strip() else None for cell in cells]
    return dict(zip(header, values + [None] * (len(header) - len(values)), strict=True))


def _records(
    lines: Sequence[str], begin: int, delimiter: str, resembles_row: Callable[[str], bool]
) -> Iterator[tuple[int, list[str] | str]]:
    """(number of its first line, cells or complaint) of each record from line `begin`, counted from 0.

    A quote that is not closed costs the row it opens in: reading goes on with the line after it.
    """
    base, reader = begin, _reader(lines, begin, delimiter)
    while begin < len(lines):
        cells, complaint = [], ""
        try:
            cells = next(reader)
        except csv.Error as error:
            complaint = str(error)
        end = base + reader.line_num
        # `within`: up to this line, the record's first lines end inside a quote that ought to be closed
        if complaint:
            within = end if complaint == "unexpected end of data" else end - 1
        else:
            within = next((i for i in range(begin + 1, end) if resembles_row(lines[i])), 0)
        if not within:
            yield begin + 1, cells
            begin = end
            continue
        opened = begin
        if within > begin:
            opened = _opened(lines, begin, within, delimiter)
            complaint = f"opens a quote that is not closed{f' ({complaint})' if complaint else ''}"
        else:
            complaint = f"is not valid CSV ({complaint})"
        yield opened + 1, complaint
        begin = base = opened + 1
        reader = _reader(lines, begin, delimiter)


def _reader(lines: Sequence[str], begin: int, delimiter: str) -> Any:
    return csv.reader((lines[i] for i in range(begin, len(lines))), delimiter=delimiter, strict=True)


def _opened(lines: Sequence[str], begin: int, within: int, delimiter: str) -> int:
    """The line at which the quote opens in which lines `begin` to `within` end."""
    try:
        last = next(csv.reader(lines[begin:within], delimiter=delimiter))[-1]
    except csv.Error:
        return begin
    return max(begin, within - len(re.findall(r"\r\n|\r|\n", last)))


def _numeric(values: Iterable[str | None]) -> bool:
    found = False
    for text in values:
        if text is not None and not _is_number(text):
            return False
        found = found or text is not None
    return found


def _is_number(text: str) -> bool:
    if not NUMBER.fullmatch(text):
        return False
    return math.isfinite(float(text)) and (isinstance(number(text), float) or abs(number(text)) <= EXACT)


# -- Parquet


def _parquet(path: Path) -> Table:
    name, columns = escaped(path.name), list[str]()
    rows: list[tuple[str, Row]] = []
    try:
        file = pq.ParquetFile(path)
        for column in file.schema_arrow.names:
            columns.append(apart(column, columns))
        for part in file.iter_batches():
            for values in zip(*(_values(column) for column in part.columns), strict=True):
                rows.append((f"{name} row {len(rows) + 1}", dict(zip(columns, values, strict=True))))
    except (pa.ArrowException, OSError) as error:
        raise MotionRAGError(f"{path}: is no readable Parquet file ({str(error).partition(chr(10))[0]})") from error
    return Table(rows, columns)


def _values(column: pa.Array) -> list[Any]:
    """A column's values; those that Python cannot hold (years beyond 9999) become text."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":  # Python's clocks count microseconds
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_duration(kind) and kind.unit == "ns":
        column = column.cast(pa.duration("us"), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        column = column.cast(pa.time64("us"), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if pa.types.is_string(scalar.type) or pa.types.is_large_string(scalar.type):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        pass
    try:
        return str(scalar.cast(pa.string()).as_py())
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return f"unreadable {scalar.type}"
