"""The parts of a `MotionRAG`, found by name, and checked to belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from motionrag import checkpoint
from motionrag.encoders import EncoderInfo, load_appearance_encoder, load_motion_encoder
from motionrag.errors import MotionRAGError
from motionrag.models.bundle import MotionBundle
from motionrag.pipeline.result import RecordedReference
from motionrag.registry import BASES, EMBEDDED, base_spec, embedded
from motionrag.retrieval.lance import any_of
from motionrag.retrieval.schema import RECORD_COLUMNS, array_of, record_of
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import load_caption_encoder
from motionrag.types import Reference

KINDS = ("motion", "appearance")


def load_bundle(name: str) -> MotionBundle:
    """The embedded bundle, or one by folder or hub id."""
    return MotionBundle.from_pretrained(embedded("bundle") if name == EMBEDDED else name).eval()


def load_retriever(db: str, bundle: str, device: str) -> Retriever:
    """A database with all its encoders; the embedded bundle brings those of motion and appearance itself.

    Raises:
        MotionRAGError: If it is not there, or was made with other encoders than there are.
    """
    database = MotionDatabase.open(embedded("database") if db == EMBEDDED else db)
    text = database.settings.text
    caption = load_caption_encoder(text.model, revision=text.revision, device=device)
    made = {kind: _model(database, kind, bundle) for kind in KINDS}
    view = database.settings.view
    motion = load_motion_encoder(made["motion"][0], revision=made["motion"][1], device=device, view=view)
    appearance = load_appearance_encoder(
        made["appearance"][0], revision=made["appearance"][1], device=device, view=view
    )
    return Retriever(database, caption, motion=motion, appearance=appearance)


def _model(database: MotionDatabase, kind: str, bundle: str) -> tuple[str, str | None]:
    """Model and revision of the encoder that a database's tokens are of."""
    info: EncoderInfo | None = getattr(database.settings, kind)
    if info is None:
        raise _no_tokens(database, kind, bundle)
    return info.model, info.revision


def check_tokens(database: MotionDatabase, bundle: MotionBundle, name: str) -> None:
    """Refuse a database whose tokens are not of this bundle's resamplers, or of clips seen otherwise.

    Raises:
        MotionRAGError: If they are not, or it keeps none.
    """
    if database.settings.view != bundle.config.view:
        raise MotionRAGError(
            f"{database.uri}: its clips were seen as {database.settings.view}, the bundle {name} takes "
            f"{bundle.config.view}; encode its videos again: `motionrag ingest {database.uri} --db NEW "
            f"--bundle {name}`"
        )
    for kind in KINDS:
        made = getattr(database.settings, f"{kind}_tokens")
        if made is None:
            raise _no_tokens(database, kind, name)
        mine = checkpoint.fingerprint(getattr(bundle, f"{kind}_resampler").state_dict())
        if made.fingerprint != mine:
            raise MotionRAGError(
                f"{database.uri}: its {kind} tokens are of the bundle {made.bundle} ({made.fingerprint[:8]}), not "
                f"of {name} ({mine[:8]}); use that bundle, or make them anew: `motionrag ingest {database.uri} "
                f"--db NEW --bundle {name}`"
            )


def _no_tokens(database: MotionDatabase, kind: str, bundle: str) -> MotionRAGError:
    return MotionRAGError(
        f"{database.uri}: keeps no {kind} tokens, which generation takes; make a database that does: `motionrag "
        f"ingest {database.uri} --db NEW --motion MODEL --appearance MODEL --bundle {bundle}`"
    )


def check_base(base: str, bundle: MotionBundle, name: str) -> None:
    """Refuse, before gigabytes are loaded, a base by name that the bundle's adapter is not made for.

    Raises:
        MotionRAGError: If its denoiser is of another class.
    """
    made = base_spec(bundle.config.adapter.base)
    if base in BASES and base_spec(base).denoiser_class != made.denoiser_class:
        raise MotionRAGError(
            f"the bundle {name} is made for the base {made.name}, not for {base}; name a bundle for {base} with "
            f"--bundle, or leave --base out"
        )


def recorded(reference: Reference) -> RecordedReference:
    """A reference as settings keep it."""
    record = reference.record
    return RecordedReference(
        id=record.id,
        score=reference.score,
        video=record.video,
        start_s=record.start_s,
        end_s=record.end_s,
        caption=record.caption,
        content_hash=record.content_hash,
    )


def recorded_references(database: MotionDatabase, recorded: Sequence[RecordedReference]) -> list[Reference]:
    """The references that settings name, in their order, with tokens; no search.

    Raises:
        MotionRAGError: If the database lacks one.
    """
    shapes = {name: shape for name, shape in database.settings.arrays().items() if name.endswith("_tokens")}
    columns = list(dict.fromkeys([*RECORD_COLUMNS, *database.source_columns]))
    found: dict[str, Reference] = {}
    order = {reference.id: rank for rank, reference in enumerate(recorded)}
    for condition in any_of("id", list(order)):
        for table in database.scan([*columns, *shapes], condition):
            arrays = {name: array_of(table, name, shape) for name, shape in shapes.items()}
            for row, fields in enumerate(_light(table, columns)):
                rank = order[fields["id"]]
                found[fields["id"]] = Reference(
                    record=record_of(fields, database.uri),
                    score=recorded[rank].score,
                    rank=rank,
                    **{name: values[row] for name, values in arrays.items()},
                )
    for reference in recorded:
        if reference.id not in found:
            raise MotionRAGError(
                f"{database.uri}: lacks the clip {reference.id} ({reference.video}), which the settings name as a "
                "reference; ingest it again, or name the database that has it with --db"
            )
    return [found[reference.id] for reference in recorded]


def _light(table: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    return table.select(list(columns)).to_pylist()


def default_dtype(device: str) -> torch.dtype:
    """What a base computes in unless told otherwise: float32 on the CPU, bfloat16 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
