"""Near-duplicates: clips that show nearly the same frames, moving the same way, are marked as they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from motionrag.retrieval.schema import SIGNATURE_WIDTH, ClipRow, array_of
from motionrag.video import DUPLICATE_COSINE

BANDS_A_QUERY = 2_000


def mark_duplicates(rows: Sequence[ClipRow], clips: Any) -> list[ClipRow]:
    """Set `duplicate_of` of each new row to the earliest clip, stored or new, that it nearly equals.

    Candidates are the clips that share a band of their signature; of these, those at `DUPLICATE_COSINE` or more are
    the same clip again, re-encoded perhaps. The mark names the first of its kind, never another duplicate.

    Args:
        rows: New rows, not yet in the table.
        clips: The LanceDB table.
    """
    table = _candidates(rows, clips)
    ids = [
        *(first or own for own, first in zip(table["id"], table["duplicate_of"], strict=True)),
        *(row.record.id for row in rows),
    ]
    bands = [*table["bands"], *(row.bands for row in rows)]
    signatures = np.concatenate([table["signature"], _signatures(rows)])
    known: dict[int, list[int]] = {}
    for index, keys in enumerate(bands[: len(table["id"])]):
        _enter(known, keys, index)
    marked: list[ClipRow] = []
    for index, row in enumerate(rows, start=len(table["id"])):
        near = sorted({other for key in row.bands for other in known.get(key, ())})
        cosines = signatures[near] @ signatures[index] if near else np.zeros(0)
        same = [other for other, cosine in zip(near, cosines, strict=True) if cosine >= DUPLICATE_COSINE]
        first = ids[max(same, key=lambda other: cosines[near.index(other)])] if same else None
        ids[index] = first or row.record.id
        marked.append(replace(row, record=replace(row.record, duplicate_of=first)))
        _enter(known, row.bands, index)
    return marked


def _enter(known: dict[int, list[int]], keys: Sequence[int], index: int) -> None:
    for key in keys:
        known.setdefault(key, []).append(index)


def _signatures(rows: Sequence[ClipRow]) -> Any:
    return np.stack([np.asarray(row.arrays["signature"], dtype=np.float32).reshape(-1) for row in rows])


def _candidates(rows: Sequence[ClipRow], clips: Any) -> dict[str, Any]:
    """Stored clips that share a band with any of the rows."""
    keys = sorted({key for row in rows for key in row.bands})
    found: dict[str, Any] = {"id": [], "duplicate_of": [], "bands": [], "signature": []}
    seen: set[str] = set()
    for start in range(0, len(keys), BANDS_A_QUERY):
        listed = ", ".join(map(str, keys[start : start + BANDS_A_QUERY]))
        query = clips.search().where(f"array_has_any(bands, [{listed}])").limit(None)
        part = query.select(["id", "duplicate_of", "bands", "signature"]).to_arrow()
        signatures = array_of(part, "signature", (SIGNATURE_WIDTH,)).astype(np.float32)
        light = part.select(["id", "duplicate_of", "bands"]).to_pylist()
        for row, signature in zip(light, signatures, strict=True):
            if row["id"] not in seen:
                seen.add(row["id"])
                for name in ("id", "duplicate_of", "bands"):
                    found[name].append(row[name])
                found["signature"].append(signature)
    found["signature"] = np.array(found["signature"], dtype=np.float32).reshape(-1, SIGNATURE_WIDTH)
    return found
