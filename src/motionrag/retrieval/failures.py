"""Clips that were set aside: the list's columns, and what it takes to try one again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from motionrag.config import parse
from motionrag.retrieval.schema import ID_FIELD
from motionrag.retrieval.sources import Job
from motionrag.retrieval.worker import Splitting

QUARANTINE_SCHEMA = pa.schema(
    [
        ID_FIELD,
        ("video", pa.string()),
        ("span", pa.string()),
        ("caption", pa.string()),
        ("reason", pa.string()),
        ("file_size", pa.int64()),
        ("file_mtime_ns", pa.int64()),
        ("job", pa.string()),  # as JSON, so that it can be tried again
    ]
)


@dataclass(frozen=True)
class Failure:
    """A clip that was set aside, and why."""

    id: str
    video: str
    span: str
    caption: str
    reason: str
    file_size: int
    file_mtime_ns: int
    job: str

    @classmethod
    def of(cls, job: Job, reason: str, size: int, changed: int, splitting: Splitting | None) -> Failure:
        """The failure of one row of a source, or of one part of it, with all that is needed to try it again."""
        key = cls.id_of(job.video, job.span)
        document = json.dumps({"job": asdict(job), "splitting": asdict(splitting) if splitting else None})
        return cls(key, job.video, job.span, job.caption, reason, size, changed, document)

    @staticmethod
    def id_of(video: str, span: str) -> str:
        """32 hex digits for a clip whose content may be unreadable."""
        return hashlib.sha256(f"{video}\n{span}".encode()).hexdigest()[:32]


def retrial(document: str) -> tuple[Job, Splitting | None]:
    """What a failure's `job` says was to be done."""
    stored = json.loads(document)
    splitting = stored["splitting"]
    return parse(Job, stored["job"], "a row set aside"), Splitting(**splitting) if splitting else None
