"""The systems of a suite, made by one `MotionRAG`: references of each clip, the motion that steers it, its frames.

Everything is taken in batches, so that a clip's motion can be told, and its name known, before it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from motionrag import checkpoint
from motionrag.encoders import TextEncoder, load_text_encoder
from motionrag.errors import MotionRAGError
from motionrag.evaluation.suite import Suite, System
from motionrag.evaluation.targets import Asked, asked
from motionrag.pipeline.parts import recorded_references
from motionrag.pipeline.rag import MotionRAG
from motionrag.pipeline.result import RecordedReference
from motionrag.retrieval.schema import RETRIEVAL_CAPTION, array_of
from motionrag.retrieval.search import FLOOR, Retriever
from motionrag.types import Reference

RECORDED = ["id", "video", "start_s", "end_s", "caption", "content_hash"]
"""Columns of a database that say which clip a reference is."""
Motion = list[Tensor | None]
"""Motion tokens [1,Q,D] of each clip; None where the base makes it alone."""


class Systems:
    """Makes the clips of a suite's systems.

    Args:
        rag: Base, bundle and encoders.
        retrievers: Those of the suite's databases, by name.
        suite: What is asked for.

    Raises:
        MotionRAGError: If the base makes no such clips.
    """

    def __init__(self, rag: MotionRAG, retrievers: Mapping[str, Retriever], suite: Suite) -> None:
        self.rag, self.retrievers, self.suite = rag, retrievers, suite
        self.sampling = rag.changed_sampling(suite.sampling)
        self.asked: Asked = asked(suite.targets, self.sampling, rag.bundle.config.view)
        """The clips."""
        steering = {**rag.bundle.adapter.state_dict(), "no motion": rag.null}
        self._steering = checkpoint.fingerprint(steering, asdict(rag.bundle.adapter.config))
        self._plain: TextEncoder | None = None
        self._words: dict[str, tuple[list[dict[str, Any]], NDArray[np.float32]]] = {}

    def seed(self, number: int) -> int:
        """Of a clip's noise."""
        return self.suite.seed + number

    def references(self, system: System, numbers: Sequence[int]) -> list[list[Reference]]:
        """Of each clip, best first, with tokens; none where nothing is relevant, or the motion is from elsewhere."""
        if system.motion != "references":
            return [[] for _ in numbers]
        retriever = self.retrievers[system.database]
        found = []
        for number in numbers:
            prompt, exclude = self.asked.queries[number], self.asked.sources[number : number + 1]
            if system.search == "motion":
                query = retriever.query(prompt)
                found.append(retriever.search(query, system.references, exclude=exclude, tokens=True))
            else:
                found.append(self._others(retriever, system, number, set(exclude)))
        return found

    def motion(self, system: System, numbers: Sequence[int], references: Sequence[Sequence[Reference]]) -> Motion:
        """What steers each clip."""
        if system.motion == "none":
            return [None for _ in numbers]
        if system.motion == "own":
            return list(self.rag.encode_motion(list(self.asked.true(numbers)))[:, None])
        looks = self.rag.encode_images([clip[0] for clip in self.asked.true(numbers)])
        return [
            self.rag.adapt(own, look[None], system.fusion) if own else None
            for own, look in zip(references, looks, strict=True)
        ]

    def key(self, system: System, number: int, motion: Tensor | None, asked_for: str) -> str:
        """The name of a clip: 64 hex digits of all that decides it."""
        parts: list[Any] = [asked_for, asdict(self.sampling), self.rag.fingerprints["base"]]
        if motion is not None:
            tokens = hashlib.sha256(motion.cpu().numpy().tobytes()).hexdigest()
            parts += [self._steering, tokens, repr(system.scale)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def frames(self, system: System, numbers: Sequence[int], motion: Motion) -> NDArray[np.uint8]:
        """Clips by number, u8 [B,T,3,H,W]: those with as many motion tokens, and those with none, in one run."""
        images, made = [clip[0] for clip in self.asked.true(numbers)], dict[int, NDArray[np.uint8]]()
        lengths = [0 if tokens is None else tokens.shape[1] for tokens in motion]  # fused, K decides
        for length in set(lengths):
            own = [i for i, its in enumerate(lengths) if its == length]
            clips = self.rag.generate(
                [images[i] for i in own],
                [self.asked.prompts[numbers[i]] for i in own],
                torch.cat([tokens for i in own if (tokens := motion[i]) is not None]) if length else None,
                seeds=[self.seed(numbers[i]) for i in own],
                sampling=self.sampling,
                scale=system.scale,
            )
            made |= dict(zip(own, clips, strict=True))
        return np.stack([made[i] for i in range(len(numbers))])

    def _others(self, retriever: Retriever, system: System, number: int, exclude: set[str]) -> list[Reference]:
        """References at random, or by the caption as a whole; those as irrelevant as a search leaves out are too."""
        rows, vectors = self._all(system.database)
        wanted = retriever.query(self.asked.queries[number]).text
        assert wanted is not None
        if system.search == "random":
            order = np.random.default_rng(self.seed(number)).permutation(len(rows))
            order = order[: system.references]
            scores = retriever.caption.relevance(wanted, vectors[order])  # type: ignore[union-attr]
            order, scores = order[np.argsort(-scores)], np.sort(scores)[::-1]
            chosen = [(rows[i], s) for i, s in zip(order, scores, strict=True) if s >= FLOOR]
        else:
            whole = self._whole(system.database)
            scores = whole @ self._text(retriever).encode([self.asked.queries[number]])[0]
            chosen = [(rows[i], scores[i]) for i in np.argsort(-scores, kind="stable")]
        kept = [(row, score) for row, score in chosen if row["video"] not in exclude][: system.references]
        return recorded_references(retriever.database, [_recorded(row, float(score)) for row, score in kept])

    def _all(self, database: str) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
        """All rows of a database, and the vectors that it keeps of their captions."""
        if database not in self._words:
            kept = self.retrievers[database].database
            columns = [*RECORDED, *({RETRIEVAL_CAPTION} & set(kept.schema.names))]
            parts = list(kept.scan([*columns, "text_vector"]))
            if not parts:
                raise MotionRAGError(f"{kept.uri}: holds no clips")
            table = pa.concat_tables(parts).sort_by("id")
            vectors = array_of(table, "text_vector", (kept.settings.text_width,)).astype(np.float32)
            self._words[database] = table.select(columns).to_pylist(), vectors
        return self._words[database]

    def _whole(self, database: str) -> NDArray[np.float32]:
        """Vectors of the captions as a whole, by the text model alone."""
        name = f"whole {database}"
        if name not in self._words:
            rows, _ = self._all(database)
            text = self._text(self.retrievers[database])
            self._words[name] = rows, text.encode([row.get(RETRIEVAL_CAPTION) or row["caption"] for row in rows])
        return self._words[name][1]

    def _text(self, retriever: Retriever) -> TextEncoder:
        """A plain sentence encoder: the user's, or MiniLM as it comes."""
        own = retriever.caption.own if retriever.caption is not None else None
        if own is None and self._plain is None:
            self._plain = load_text_encoder(device=str(self.rag.device))
        return own or self._plain  # type: ignore[return-value]


def _recorded(row: Mapping[str, Any], score: float) -> RecordedReference:
    return RecordedReference(score=score, **{name: row[name] for name in RECORDED})
