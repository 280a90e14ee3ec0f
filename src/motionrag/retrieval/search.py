"""Search: a prompt, an image or a clip in, the references that move like it out (paper, section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from motionrag.errors import MotionRAGError
from motionrag.retrieval.lance import quoted
from motionrag.retrieval.schema import RECORD_COLUMNS, SIGNATURE_WIDTH, array_of, record_of
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import LIFTED, method_fingerprint
from motionrag.types import Clip, Reference
from motionrag.video import DUPLICATE_COSINE, pick, signature

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from motionrag.encoders import EncoderInfo, VideoEncoder
    from motionrag.encoders.motion_text import Explanation
    from motionrag.retrieval.vectors import CaptionEncoder

FLOOR = 0.55  # of the relevance: below it a clip says nothing of the prompt (benchmarks/README.md)
WORDS_SHARE = 0.25  # of the score: words that prompt and caption share; the rest is the relevance
HALF_WORDS = 26.0  # BM25 that earns half of it: some four rare words
CANDIDATES = 2  # times k are looked at, so that k are left when copies and more of one recording have gone
FEWEST = 32  # candidates by vectors, and as many by words; BM25 of any other is taken for 0
SAMENESS = 0.05  # what a reference that looks just like a better one loses of its score
IMAGE_SHARE = 0.25  # of the score, where an image is part of the query
A_VIDEO = 3  # references from one recording, as long as there are others
MOST = 10_000  # references of one query
MODE_COLUMNS = {"text": "text_vector", "motion": "motion_vector"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to look for; vectors of length 1."""

    text: NDArray[np.float32] | None = None
    """Of a prompt, f32 [W], by `CaptionEncoder`."""
    words: str = ""
    """The prompt, for the words that captions share with it; "" compares vectors alone."""
    appearance: NDArray[np.float32] | None = None
    """Of an image, f32 [D]; ranks what the other finds."""
    motion: NDArray[np.float32] | None = None
    """Of a clip, f32 [D], in place of a prompt."""
    own: NDArray[np.float32] | None = None
    """Signature of the query's own clip, f32 [512]; it and its near-duplicates are left out."""
    own_hash: str | None = None
    """Content hash of the query's own video; likewise."""


class Retriever:
    """Answers queries from one database.

    Args:
        database: Where to look.
        caption: Encoder of prompts; must be the one the database was made with.
        motion: Encoder of clips, for queries by motion.
        appearance: Encoder of images, for queries with one.

    Raises:
        MotionRAGError: If an encoder is another than the database's.
    """

    def __init__(
        self,
        database: MotionDatabase,
        caption: CaptionEncoder | None = None,
        *,
        motion: VideoEncoder | None = None,
        appearance: VideoEncoder | None = None,
    ) -> None:
        self.database, self.caption, self.motion, self.appearance = database, caption, motion, appearance
        if caption is not None:
            check_caption_encoder(database, caption)
        for kind, encoder in (("motion", motion), ("appearance", appearance)):
            made = getattr(database.settings, kind)
            if encoder is not None and (made is None or made.fingerprint != encoder.info.fingerprint):
                raise MotionRAGError(
                    f"{database.uri}: its {kind} vectors are of {_described(made)}, the query's of "
                    f"{_described(encoder.info)}; encode its videos again: `motionrag ingest {database.uri} "
                    f"--db NEW --{kind} {encoder.info.model}`"
                )

    @classmethod
    def open(
        cls, uri: str | Path, *, motion: bool = False, appearance: bool = False, device: str = "cpu"
    ) -> Retriever:
        """Open a database with the encoders it was made with.

        Args:
            uri: As for `MotionDatabase.open`.
            motion: Whether to load the motion encoder, for queries by clip.
            appearance: Whether to load the appearance encoder, for queries with an image.
            device: Where they run.

        Raises:
            MotionRAGError: If there is no database, or it keeps no such vectors.
        """
        from motionrag.encoders import load_appearance_encoder, load_motion_encoder
        from motionrag.retrieval.vectors import load_caption_encoder

        database = MotionDatabase.open(uri)
        text = database.settings.text
        caption = load_caption_encoder(text.model, revision=text.revision, device=device)
        loaded: dict[str, VideoEncoder] = {}
        for kind, wanted in (("motion", motion), ("appearance", appearance)):
            if wanted:
                info = _made_with(database, kind)
                load: Any = load_motion_encoder if kind == "motion" else load_appearance_encoder
                view = database.settings.view
                loaded[kind] = load(info.model, revision=info.revision, device=device, view=view)
        return cls(database, caption, **loaded)

    def query(
        self, prompt: str | None = None, *, image: NDArray[np.uint8] | None = None, clip: Clip | None = None
    ) -> Query:
        """Encode a query.

        Args:
            prompt: What shall happen.
            image: The target image, u8 [3, H, W], RGB in [0, 255].
            clip: A clip whose motion is wanted, in place of a prompt.

        Raises:
            MotionRAGError: If there is neither prompt nor clip, or an encoder that is needed is missing.
        """
        if (prompt is None) == (clip is None):
            raise MotionRAGError("a query is either a prompt or a clip")
        if prompt is not None and not prompt.strip():
            raise MotionRAGError("the prompt is empty; say what moves, and how")
        text = motion = own = appearance = None
        if prompt is not None:
            text = self._encoder(self.caption, "text").encode_prompts([prompt])[0]
        if clip is not None:
            motion = _vector(self._encoder(self.motion, "motion"), clip.frames)
            own, _ = signature(clip.frames[pick(len(clip.frames), 16)])
        if image is not None:
            appearance = _vector(self._encoder(self.appearance, "appearance"), image[None])
        return Query(text=text, words=prompt or "", motion=motion, appearance=appearance, own=own)

    def explain(self, prompt: str, references: Sequence[Reference], *, image: bool = False) -> list[Explanation]:
        """What each sentence of the references' captions, and each axis of motion, adds to their scores.

        What shared words add is in the references themselves; what a user's own text encoder or an image adds is in
        neither.

        Args:
            prompt: Of the query.
            references: What it found.
            image: Whether the query had an image too.

        Raises:
            MotionRAGError: If there is no caption encoder, or the prompt is empty.
        """
        caption: CaptionEncoder = self._encoder(self.caption, "text")
        explained = caption.explain([reference.record.compared for reference in references], prompt)
        return [one.times((1 - WORDS_SHARE) * (1 - IMAGE_SHARE * image)) for one in explained]

    def _encoder(self, encoder: Any, kind: str) -> Any:
        if encoder is not None:
            return encoder
        if kind != "text":
            _made_with(self.database, kind)
        raise MotionRAGError(f"this query needs the {kind} encoder; give it to the Retriever")

    def search(
        self,
        query: Query,
        k: int = 9,
        *,
        where: str | None = None,
        exclude: Sequence[str] = (),
        floor: float = FLOOR,
        tokens: bool = False,
        exact: bool = False,
    ) -> list[Reference]:
        """The references that fit a query best, best first; fewer than k, or none, where no more are relevant.

        Args:
            query: From `query`.
            k: How many.
            where: Condition (SQL) on any column, such as "lab = 'x' AND end_s - start_s < 5".
            exclude: Ids or video paths of clips that must not be among them, the target's own above all; their
                near-duplicates are left out too.
            floor: Lowest relevance, in [-1, 1]: `CaptionEncoder.relevance`, or the cosine of motions.
            tokens: Whether to fetch the motion and appearance tokens of the references.
            exact: Compare with every row instead of using the index.

        Raises:
            MotionRAGError: If `where` is no condition on this database's columns, or there are no tokens.
        """
        if not 1 <= k <= MOST:
            raise MotionRAGError(f"k={k} must be at least 1 and at most {MOST:,}")
        if not -1 <= floor <= 1:
            raise MotionRAGError(f"floor={floor} is no cosine; it must lie in [-1, 1]")
        self.database.refresh()
        wanted, chosen = max(CANDIDATES * k, FEWEST), list[Candidate]()
        groups = self._groups(exclude)
        while True:  # copies, and parts of one recording, may fill any number of places
            found, more = self._candidates(query, wanted, where, floor, exact)
            chosen = varied(self._without(found, query, groups), k, these_are_all=not more)
            if len(chosen) == k or not more:
                return self._references(chosen, tokens)
            wanted *= 4

    def _candidates(
        self, query: Query, wanted: int, where: str | None, floor: float, exact: bool
    ) -> tuple[list[Candidate], bool]:
        """The relevant among the nearest clips, best first, and whether there may be more."""
        column = MODE_COLUMNS["text" if query.text is not None else "motion"]
        vector = query.text if query.text is not None else query.motion
        assert vector is not None
        with ThreadPoolExecutor(1) as beside:
            sharing = beside.submit(self._sharing_words, query.words, wanted, where)
            near = self.database.nearest(column, vector, wanted, where=where, exact=exact)
            words = sharing.result()
        rows = list(dict.fromkeys([*near, *words]))
        if not rows:
            return [], False
        light = ["id", "video", "duplicate_of", *(["content_hash"] if query.own_hash is not None else [])]
        heavy = ["signature", column, *(["appearance_vector"] if query.appearance is not None else [])]
        table = self.database.take(rows, [*light, *heavy])
        vectors = array_of(table, column, vector.shape).astype(np.float32)
        relevance = cosines = vectors @ vector
        if query.text is not None:
            relevance = self._encoder(self.caption, "text").relevance(vector, vectors)
        score, shared = relevance, words_score(np.array([words.get(row, 0.0) for row in rows]))
        if query.words:
            score = (1 - WORDS_SHARE) * relevance + shared
        if query.appearance is not None:
            looks = array_of(table, "appearance_vector", query.appearance.shape).astype(np.float32)
            score = (1 - IMAGE_SHARE) * score + IMAGE_SHARE * (looks @ query.appearance)
            shared = (1 - IMAGE_SHARE) * shared
        best = np.argsort(-score, kind="stable")
        best = best[relevance[best] >= floor]
        more = len(near) == wanted and bool(cosines[:wanted].min() + LIFTED >= floor)
        signatures = array_of(table, "signature", (SIGNATURE_WIDTH,)).astype(np.float32)
        found = table.select([*light, "_rowid"]).to_pylist()
        return [Candidate(found[i], float(score[i]), signatures[i], float(shared[i])) for i in best], more

    def _sharing_words(self, words: str, limit: int, where: str | None) -> dict[int, float]:
        return self.database.sharing_words(words, limit, where=where) if words else {}

    def _without(self, found: list[Candidate], query: Query, groups: set[str]) -> list[Candidate]:
        """Leave out the query's own clip, what else is excluded, and near-duplicates of both."""
        return [
            item
            for item in found
            if (query.own_hash is None or item.row["content_hash"] != query.own_hash)
            and not groups & {item.row["id"], item.row["duplicate_of"], item.row["video"]}
            and (query.own is None or item.signature @ query.own < DUPLICATE_COSINE)
        ]

    def _groups(self, exclude: Sequence[str]) -> set[str]:
        """Excluded ids and paths, and the ids of the groups of near-duplicates that they are of."""
        if not exclude:
            return set()
        listed = ", ".join(quoted(str(name)) for name in exclude)
        rows = self.database.rows(["id", "duplicate_of"], f"id IN ({listed}) OR video IN ({listed})")
        return {*map(str, exclude), *(row["duplicate_of"] or row["id"] for row in rows)}

    def _references(self, chosen: list[Candidate], tokens: bool) -> list[Reference]:
        """Fetch the records, and the tokens if they are wanted, of those chosen."""
        shapes = {name: shape for name, shape in self.database.settings.arrays().items() if name.endswith("_tokens")}
        if tokens and not shapes:
            raise MotionRAGError(
                f"{self.database.uri}: keeps no tokens; make a database that does: `motionrag ingest "
                f"{self.database.uri} --db NEW --bundle BUNDLE`, with --motion and --appearance if it has neither"
            )
        if not chosen:
            return []
        columns = dict.fromkeys([*RECORD_COLUMNS, *self.database.source_columns])
        light = [name for name in columns if name not in chosen[0].row]
        wanted = list(shapes) if tokens else []
        table: pa.Table = self.database.take([item.row["_rowid"] for item in chosen], [*light, *wanted])
        arrays = {name: array_of(table, name, shapes[name]) for name in wanted}
        return [
            Reference(
                record=record_of({**item.row, **row}, self.database.uri),
                score=round(item.score, 6),
                words=round(item.words, 6),
                rank=rank,
                **{name: values[rank] for name, values in arrays.items()},
            )
            for rank, (row, item) in enumerate(zip(table.select(light).to_pylist(), chosen, strict=True))
        ]


@dataclass
class Candidate:
    """A clip that may become a reference."""

    row: dict[str, Any]
    score: float
    signature: NDArray[np.float32]
    words: float = 0.0


def words_score(words: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """What shared words add to scores, from their BM25 [...].

    BM25 is taken as it is, not as a rank or a share of the best: that it is large says that rare words are shared.
    """
    return np.asarray(WORDS_SHARE * words / (words + HALF_WORDS), dtype=np.float32)


def check_caption_encoder(database: MotionDatabase, caption: CaptionEncoder) -> None:
    """Refuse an encoder whose vectors do not compare with the database's.

    Raises:
        MotionRAGError: If they do not.
    """
    made, mine = database.settings.text, caption.info
    if database.settings.caption_method != method_fingerprint():
        raise MotionRAGError(
            f"{database.uri}: its captions were encoded by another version of the caption encoder; encode them "
            f"again, without decoding any video: `motionrag ingest {database.uri} --db NEW`"
        )
    if made.fingerprint != mine.fingerprint:
        raise MotionRAGError(
            f"{database.uri}: its captions were encoded by {made.model} ({made.dimension} wide, "
            f"{made.fingerprint[:8]}), the query by {mine.model} ({mine.dimension} wide, {mine.fingerprint[:8]}); "
            f"use that encoder, or encode them anew: `motionrag ingest {database.uri} --db NEW --text {mine.model}`"
        )


def _made_with(database: MotionDatabase, kind: str) -> EncoderInfo:
    info: EncoderInfo | None = getattr(database.settings, kind)
    if info is None:
        raise MotionRAGError(
            f"{database.uri}: keeps no {kind} vectors; make a database that does: `motionrag ingest {database.uri} "
            f"--db NEW --{kind} MODEL`"
        )
    return info


def varied(found: list[Candidate], k: int, *, these_are_all: bool) -> list[Candidate]:
    """The k best of which none is a copy of another, few are of one recording, and looks differ where they can."""
    signatures = np.array([item.signature for item in found], dtype=np.float32).reshape(len(found), SIGNATURE_WIDTH)
    points = np.array([item.score for item in found], dtype=np.float32)
    likeness = np.zeros(len(found), dtype=np.float32)
    free = np.ones(len(found), dtype=bool)
    chosen: list[Candidate] = []
    spare: list[Candidate] = []  # of recordings that have had their share
    groups: set[str] = set()
    videos: Counter[str] = Counter()
    while len(chosen) < k and free.any():
        best = int(np.argmax(np.where(free, points - SAMENESS * likeness, -np.inf)))
        free[best] = False
        item = found[best]
        group = item.row["duplicate_of"] or item.row["id"]
        if group in groups:
            continue
        groups.add(group)
        if videos[item.row["video"]] == A_VIDEO:
            spare.append(item)
            continue
        videos[item.row["video"]] += 1
        chosen.append(item)
        likeness = np.maximum(likeness, signatures @ item.signature)
    if these_are_all:
        chosen += spare[: k - len(chosen)]
    return sorted(chosen, key=lambda item: -item.score)


def _described(info: EncoderInfo | None) -> str:
    return "no encoder" if info is None else f"{info.model} ({info.fingerprint[:8]})"


def _vector(encoder: VideoEncoder, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Frames u8 [T,3,H,W] of one clip to one vector f32 [D] of length 1."""
    import torch

    with torch.inference_mode():
        vector = encoder.pool(encoder.encode(encoder.preparation(frames)[None]))[0]
    return np.asarray(vector.float().cpu().numpy(), dtype=np.float32)
