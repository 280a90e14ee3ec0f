"""The databases of a suite: copies of one, with clips added or left out, made once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from motionrag import checkpoint
from motionrag.errors import MotionRAGError
from motionrag.evaluation.suite import DatabaseRecipe, SynthClips
from motionrag.models.bundle import MotionBundle
from motionrag.pipeline.parts import KINDS
from motionrag.registry import EMBEDDED, embedded
from motionrag.retrieval.encoding import ClipEncoders, Tokenizer
from motionrag.retrieval.ingest import Progress, ingest
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.synth import families
from motionrag.synth.write import CorpusSettings, write_corpus


def retrievers(
    recipes: Mapping[str, DatabaseRecipe],
    like: Retriever,
    bundle: MotionBundle,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Retriever]:
    """Open or make the databases of a suite.

    Args:
        recipes: What each is.
        like: Whose encoders are used.
        bundle: Whose tokens they keep.
        folder: Where copies are made; what is there is gone on with.
        progress: Of bringing clips in.

    Raises:
        MotionRAGError: If one is missing, or does not keep this bundle's tokens.
    """
    return {name: _open(recipe, like, bundle, folder, progress) for name, recipe in recipes.items()}


def _open(
    recipe: DatabaseRecipe, like: Retriever, bundle: MotionBundle, folder: Path, progress: Progress | None
) -> Retriever:
    uri = str(embedded("database")) if recipe.path == EMBEDDED else recipe.path
    source = MotionDatabase.open(uri)
    _check_tokens(source, like.database)
    database = source
    if recipe.add is not None or recipe.share < 1:
        if not Path(uri).is_dir():
            raise MotionRAGError(f"{uri}: only a database in a folder can be copied and changed")
        copy = folder / _name(recipe, source)
        if not copy.exists():
            with checkpoint.replacing(copy) as temporary:
                shutil.copytree(uri, temporary, dirs_exist_ok=True)
                _thin(MotionDatabase.open(temporary), recipe.share)
        database = MotionDatabase.open(copy)
        if recipe.add is not None:
            corpus = folder / f"clips-{recipe.add.group}-{recipe.add.count}-{recipe.add.seed}"
            write_corpus(corpus, _corpus(recipe.add))
            encoders = _encoders(like, database, bundle)
            ingest(read_jobs(corpus), database, encoders, workers=os.cpu_count() or 1, progress=progress)
    return Retriever(database, like.caption, motion=like.motion, appearance=like.appearance)


def _check_tokens(database: MotionDatabase, like: MotionDatabase) -> None:
    """Refuse a database whose tokens are of other weights than those of the one that the bundle was loaded with."""
    for kind in KINDS:
        made, wanted = (getattr(one.settings, f"{kind}_tokens") for one in (database, like))
        if made is None or made.fingerprint != wanted.fingerprint:
            raise MotionRAGError(
                f"{database.uri}: its {kind} tokens are not of the bundle {wanted.bundle}; make them anew: "
                f"`motionrag ingest {database.uri} --db NEW --bundle {wanted.bundle}`"
            )


def _name(recipe: DatabaseRecipe, source: MotionDatabase) -> str:
    ids = "".join(sorted(row["id"] for row in source.rows(["id"])))
    marks = repr((asdict(recipe), asdict(source.settings), hashlib.sha256(ids.encode()).hexdigest()))
    return f"database-{hashlib.sha256(marks.encode()).hexdigest()[:12]}"


def _thin(database: MotionDatabase, share: float) -> None:
    """Leave that share of the clips, spread evenly."""
    ids = sorted(row["id"] for row in database.rows(["id"]))
    kept = {ids[int(i / share)] for i in range(round(share * len(ids)))}
    if gone := [name for name in ids if name not in kept]:
        database.remove_ids(gone)


def _corpus(clips: SynthClips) -> CorpusSettings:
    names = [one.name for one in families().values() if one.predictable and one.known == (clips.group == "known")]
    return CorpusSettings(clips=clips.count, seed=clips.seed, families=names)


def _encoders(like: Retriever, database: MotionDatabase, bundle: MotionBundle) -> ClipEncoders:
    made = database.settings
    resamplers = {"motion": bundle.motion_resampler, "appearance": bundle.appearance_resampler}
    video = {"motion": like.motion, "appearance": like.appearance}
    tokens = {"motion": made.motion_tokens, "appearance": made.appearance_tokens}
    if like.caption is None or None in video.values() or None in tokens.values():
        raise MotionRAGError(f"{database.uri}: clips cannot be added without all of its encoders")
    return ClipEncoders(
        caption=like.caption,
        video={kind: encoder for kind, encoder in video.items() if encoder is not None},
        tokenizers={
            kind: Tokenizer(resample=resamplers[kind], info=info)
            for kind, info in tokens.items()
            if info is not None
        },
        features=made.features,
    )
