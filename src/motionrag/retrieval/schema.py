"""The database's one schema, versioned: its columns, and the settings that all its vectors were made with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from motionrag.config import parse
from motionrag.encoders.protocols import EncoderInfo
from motionrag.errors import MotionRAGError
from motionrag.types import WHOLE, ClipRecord, View

if TYPE_CHECKING:
    from numpy.typing import NDArray


SCHEMA_VERSION = 1
SIGNATURE_WIDTH = 512
SETTINGS_KEY = b"motionrag"
# The primary key: of two processes that write the same id at once, one tries again and finds it there.
ID_FIELD = pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"})


@dataclass(frozen=True, kw_only=True)
class TokenInfo:
    """What made the tokens: a resampler of a bundle, over an encoder's features."""

    bundle: str
    """Folder or hub id of the bundle."""
    fingerprint: str
    """SHA-256, 64 hex digits, over the resampler's weights."""
    queries: int
    """Q, tokens a clip."""
    width: int
    """D, the width of a token."""


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """What a database keeps of each clip, and what made it. Vectors of other settings do not compare."""

    text: EncoderInfo
    """Encoder of captions and prompts."""
    caption_method: str
    """SHA-256 of how captions become vectors: `vectors.method_fingerprint`."""
    text_width: int
    """W, the width of a caption's vector."""
    motion: EncoderInfo | None = None
    """Encoder of motion; None for a database of captions only."""
    appearance: EncoderInfo | None = None
    """Encoder of first frames."""
    motion_tokens: TokenInfo | None = None
    """The tokens kept of motion features, if any."""
    appearance_tokens: TokenInfo | None = None
    """The tokens kept of appearance features, if any."""
    features: bool = False
    """Whether the encoders' features themselves are kept: large, but other tokens can be made of them."""
    view: View = WHOLE
    """What the motion and appearance encoders saw of each clip."""
    schema_version: int = SCHEMA_VERSION
    """Version of the columns."""

    def __post_init__(self) -> None:
        for kind in ("motion", "appearance"):
            if getattr(self, f"{kind}_tokens") is not None and getattr(self, kind) is None:
                raise MotionRAGError(f"{kind}_tokens are made of {kind} features: name the {kind} encoder too")

    def to_metadata(self) -> dict[bytes, bytes]:
        """As the table's metadata."""
        return {SETTINGS_KEY: json.dumps(asdict(self)).encode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, where: str) -> DatabaseSettings:
        """Read what `to_metadata` wrote.

        Raises:
            MotionRAGError: If there is nothing of ours, or it is of another version.
        """
        if SETTINGS_KEY not in (metadata or {}):
            raise MotionRAGError(f"{where}: was not written by motionrag")
        document = json.loads((metadata or {})[SETTINGS_KEY])
        version = document.get("schema_version")
        if version != SCHEMA_VERSION:
            raise MotionRAGError(
                f"{where}: has schema version {version}, this motionrag reads {SCHEMA_VERSION}; "
                + ("install a newer motionrag" if (version or 0) > SCHEMA_VERSION else "ingest its videos again")
            )
        return parse(cls, document, where)

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each float16 array a row keeps, beside its signature."""
        shapes: dict[str, tuple[int, ...]] = {"text_vector": (self.text_width,)}
        for kind in ("motion", "appearance"):
            encoder: EncoderInfo | None = getattr(self, kind)
            tokens: TokenInfo | None = getattr(self, f"{kind}_tokens")
            if encoder is not None:
                shapes[f"{kind}_vector"] = (encoder.dimension,)
                if self.features:
                    shapes[f"{kind}_features"] = (encoder.length or 1, encoder.dimension)
            if tokens is not None:
                shapes[f"{kind}_tokens"] = (tokens.queries, tokens.width)
        return shapes

    def same_video(self, other: DatabaseSettings) -> bool:
        """Whether everything but the captions' vectors is of the same make."""
        same = replace(self, text=other.text, text_width=other.text_width, caption_method=other.caption_method)
        return same.difference(other) is None

    def difference(self, other: DatabaseSettings) -> str | None:
        """The first setting in which two databases' contents do not compare, in words; None if there is none."""
        if self.caption_method != other.caption_method:
            return "captions: encoded by another version of the caption encoder"
        if self.view != other.view:
            return f"{self.view} against {other.view}"
        for name in ("text", "motion", "appearance", "motion_tokens", "appearance_tokens"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine and mine.fingerprint) != (theirs and theirs.fingerprint):
                return f"{name.replace('_', ' ')}: {_name(mine)} against {_name(theirs)}"
        return None if self.features == other.features else "features: kept in one, not in the other"


def _name(part: EncoderInfo | TokenInfo | None) -> str:
    if part is None:
        return "none"
    return f"{part.model if isinstance(part, EncoderInfo) else part.bundle} ({part.fingerprint[:8]})"


def clip_schema(settings: DatabaseSettings) -> pa.Schema:
    """Columns of the table `clips`; a source's own columns are added as they come."""
    arrays = {"signature": (SIGNATURE_WIDTH,), **settings.arrays()}
    return pa.schema(
        [
            ID_FIELD,
            ("video", pa.string()),
            ("span", pa.string()),
            ("split", pa.string()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("caption", pa.string()),
            ("content_hash", pa.string()),
            ("file_size", pa.int64()),
            ("file_mtime_ns", pa.int64()),
            ("duplicate_of", pa.string()),
            ("bands", pa.list_(pa.int32())),
            *((name, pa.list_(pa.float16(), int(np.prod(shape)))) for name, shape in arrays.items()),
        ],
        metadata=settings.to_metadata(),
    )


RECORD_COLUMNS = ("id", "video", "start_s", "end_s", "caption", "content_hash", "duplicate_of")
RETRIEVAL_CAPTION = "retrieval_caption"
"""Column that is there once a source has brought captions for search alone."""
OWN_COLUMNS = frozenset(
    {
        *RECORD_COLUMNS,
        RETRIEVAL_CAPTION,
        *("span", "split", "file_size", "file_mtime_ns", "bands", "signature", "text_vector"),
        *(f"{kind}_{what}" for kind in ("motion", "appearance") for what in ("vector", "tokens", "features")),
    }
)


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One row to be written: the record, and what was computed from its frames and caption."""

    record: ClipRecord
    span: str
    """Which part of the video was asked for: "whole" or "START-END" in seconds."""
    split: str
    """How the recording was split, and into how many parts: "5s:28"; empty if it was not."""
    file_size: int
    """Bytes of the video file when it was read."""
    file_mtime_ns: int
    """Its time of change then."""
    bands: Sequence[int]
    """Keys under which near-duplicates are looked up."""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """`signature` and those of `DatabaseSettings.arrays`, in any float type."""


def rows_to_table(rows: Sequence[ClipRow], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table; columns they lack are null."""
    columns = [_column(rows, column) for column in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(rows: Sequence[ClipRow], column: pa.Field) -> pa.Array:
    name = column.name
    if pa.types.is_fixed_size_list(column.type):
        flat = np.stack([np.asarray(row.arrays[name], dtype=np.float16).reshape(-1) for row in rows])
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), type=column.type)
    if name in (*RECORD_COLUMNS, RETRIEVAL_CAPTION):
        return pa.array([getattr(row.record, name) for row in rows], type=column.type)
    if name in OWN_COLUMNS:
        return pa.array([getattr(row, name) for row in rows], type=column.type)
    return pa.array([row.record.metadata.get(name) for row in rows], type=column.type)


def record_of(row: Mapping[str, Any], home: str = "") -> ClipRecord:
    """A row of the table as a record; the source's columns become its metadata.

    Args:
        row: Its columns.
        home: The database's folder: where a video is that the row names by a relative path, in a database that is
            handed on with its videos.
    """
    metadata = {name: value for name, value in row.items() if name not in OWN_COLUMNS and not name.startswith("_")}
    columns: dict[str, Any] = {name: row.get(name) for name in (*RECORD_COLUMNS, RETRIEVAL_CAPTION)}
    return ClipRecord(**{**columns, "video": os.path.join(home, row["video"])}, metadata=metadata)


def array_of(table: pa.Table, name: str, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """An array column as f16 [rows, *shape]."""
    column = table.column(name).combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float16).reshape(len(table), *shape)
