"""Does search match the motion? Motion-class precision@9 of four ways to compare captions, and the relevance floor.

    whole    whole-caption dense: cosine of the text encoder's vectors, as published
    bm25     full-text search (LanceDB's)
    fusion   reciprocal rank fusion of the two
    ours     `CaptionEncoder`: actions apart from things, and a code for the motion
    search   the same through the product's own search, on a database of the videos: the lab left out by a filter,
             near-duplicates left out, variety asked for; without and with the relevance floor

Sets of captions, each with the class of its motion:

    droid                 robot manipulation (shared/data/droid): the class is its `verb`, Put with Place and Pick
                          with Take, Other left out; a query's whole lab is left out of what is searched
    blind_paraphrase      captions of droid said anew, searched in droid without the lab of the source
    blind_manipulation    hand-written captions of manipulation, 14 classes, the same objects in all of them
    blind_open            of anything: people, nature, the camera; 34 classes
    development_...       the same kinds, by other authors; lexicon and parser were developed with these, so read
                          their figures as those of a training set

The blind sets were written by authors who saw neither the code nor the other sets, and nothing was tuned on them.

Precision@9 is the share of the nine best whose class is the query's, a mean over queries; where a class has fewer
than nine others, it is out of those. "opposite" is the share of the nine that move the opposite way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
from lancedb.index import FTS

from motionrag.encoders import load_text_encoder
from motionrag.retrieval.encoding import ClipEncoders
from motionrag.retrieval.ingest import ingest
from motionrag.retrieval.search import FLOOR, Retriever
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
SHARED = ROOT.parent / "shared" / "data"
K = 9
VERBS = {"Put": "put", "Place": "put", "Pick": "pick", "Take": "pick", "Move": "move", "Remove": "remove"}
VERBS |= {"Open": "open", "Close": "close", "Turn": "turn"}
PAIRS = ["open close", "push pull", "throw catch", "sit_down stand_up", "grow shrink", "slide_left slide_right"]
PAIRS += ["zoom_in zoom_out", "pan_left pan_right", "rise_ascend sink_descend"]
OPPOSITE = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}


@dataclass(frozen=True)
class Captions:
    """Captions with the class of their motion, and a group that a query does not search (its lab, or itself)."""

    texts: list[str]
    classes: np.ndarray
    groups: np.ndarray


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def droid(folder: Path) -> Captions:
    rows = [row for row in read(folder / "droid" / "captions.jsonl") if row["verb"] in VERBS]
    classes = np.array([VERBS[row["verb"]] for row in rows])
    return Captions([row["caption"] for row in rows], classes, np.array([row["lab"] for row in rows]))


def written(name: str) -> Captions:
    rows = read(DATA / f"{name}.jsonl")
    return Captions(
        [row["caption"] for row in rows], np.array([row["motion"] for row in rows]), np.arange(len(rows))
    )


def paraphrases(name: str, base: Captions) -> Captions:
    """Grouped by the lab of the caption they were made from."""
    rows = read(DATA / f"{name}.jsonl")
    labs = dict(zip(base.texts, base.groups, strict=True))
    rows = [row for row in rows if row["source"] in labs]
    groups = np.array([labs[row["source"]] for row in rows])
    return Captions([row["caption"] for row in rows], np.array([row["motion"] for row in rows]), groups)


Way = Callable[[list[str], list[str]], np.ndarray]


def bm25(queries: list[str], texts: list[str]) -> np.ndarray:
    """Scores [queries, texts] of LanceDB's full-text search."""
    scores = np.zeros((len(queries), len(texts)), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        table = lancedb.connect(folder).create_table("t", [{"i": i, "text": text} for i, text in enumerate(texts)])
        table.create_index("text", config=FTS(stem=True, remove_stop_words=False))
        for row, query in enumerate(queries):
            words = "".join(c if c.isalnum() else " " for c in query)
            for hit in table.search(words, query_type="fts").limit(len(texts)).to_list():
                scores[row, hit["i"]] = hit["_score"]
    return scores


def ranks(scores: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(scores.shape[1])[None], axis=1)
    return found


def ways(caption: CaptionEncoder) -> dict[str, Way]:
    def whole(queries: list[str], texts: list[str]) -> np.ndarray:
        return caption.text.encode(queries) @ caption.text.encode(texts).T

    def fusion(queries: list[str], texts: list[str]) -> np.ndarray:
        return sum(1 / (60 + ranks(way(queries, texts))) for way in (whole, bm25))

    def ours(queries: list[str], texts: list[str]) -> np.ndarray:
        return caption.encode(queries) @ caption.encode(texts).T

    return {"whole": whole, "bm25": bm25, "fusion": fusion, "ours": ours}


def precision(scores: np.ndarray, queries: Captions, base: Captions) -> dict[str, Any]:
    """Precision@9, by class too, with a bootstrap 95% interval over queries; and the share of opposites."""
    scores = np.where(queries.groups[:, None] == base.groups[None], -np.inf, scores)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    same = base.classes[best] == queries.classes[:, None]
    there = (base.classes[None] == queries.classes[:, None]) & np.isfinite(scores)
    hits = same.sum(1) / np.minimum(K, there.sum(1))
    opposite = np.array([OPPOSITE.get(name, "") for name in queries.classes])
    turned = (base.classes[best] == opposite[:, None]).mean(1)[opposite != ""]
    draws = np.random.default_rng(0).choice(hits, (2000, len(hits))).mean(1)
    return {
        "precision_at_9": round(float(hits.mean()), 4),
        "interval": [round(float(edge), 4) for edge in np.percentile(draws, [2.5, 97.5])],
        "opposite": round(float(turned.mean()), 4) if len(turned) else None,
        "queries": len(hits),
        "by_class": {
            str(name): round(float(hits[queries.classes == name].mean()), 3) for name in np.unique(queries.classes)
        },
    }


def through_the_product(caption: CaptionEncoder, folder: Path, queries: Captions) -> dict[str, Any]:
    """Precision@9 of `Retriever.search` on a database made of droid's videos, without and with the floor."""
    hits: dict[str, list[float]] = {"search": [], "search with the floor": []}
    found: list[int] = []
    with tempfile.TemporaryDirectory() as place:
        encoders = ClipEncoders(caption=caption)
        database = MotionDatabase.create(place, encoders.settings)
        ingest(
            [job for job in read_jobs(folder / "droid") if job.metadata["verb"] in VERBS],
            database,
            encoders,
            workers=2,
        )
        retriever = Retriever(database, caption)
        for text, kind, lab in zip(queries.texts, queries.classes, queries.groups, strict=True):
            for name, least in (("search", -1.0), ("search with the floor", FLOOR)):
                references = retriever.search(retriever.query(text), K, where=f"lab <> '{lab}'", floor=least)
                same = [VERBS[item.record.metadata["verb"]] == kind for item in references]
                hits[name].append(float(np.mean(same)) if same else 0.0)
            found.append(len(references))
    report: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in hits.items()}
    return {**report, "references found above the floor": round(float(np.mean(found)), 2), "queries": len(found)}


def floor(caption: CaptionEncoder, texts: list[str]) -> dict[str, Any]:
    """Of prompts that droid knows nothing of, how many find nothing; of those it knows, how many find something."""
    vectors = caption.encode(texts)
    best = {
        name: (caption.encode([row["prompt"] for row in read(DATA / f"{name}.jsonl")]) @ vectors.T).max(1)
        for name in ("development_irrelevant", "blind_irrelevant", "blind_relevant")
    }
    return {
        "floor": FLOOR,
        "irrelevant_found_nothing": {name: round(float((best[name] < FLOOR).mean()), 3) for name in list(best)[:2]},
        "relevant_found_something": round(float((best["blind_relevant"] >= FLOOR).mean()), 3),
        "best_score_percentiles_5_50_95": {
            name: [round(float(value), 3) for value in np.percentile(scores, [5, 50, 95])]
            for name, scores in best.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=SHARED, help="folder that holds droid/ (default: ../shared/data)"
    )
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    caption = CaptionEncoder(load_text_encoder())
    sets: dict[str, tuple[Captions, Captions]] = {}
    if (arguments.data / "droid").is_dir():
        base = droid(arguments.data)
        sets["droid"] = (base, base)
        sets |= {name: (paraphrases(name, base), base) for name in ("blind_paraphrase", "development_paraphrase")}
    else:
        print(f"{arguments.data}: holds no droid/, so only the written captions are measured")
    kinds = ("blind_manipulation", "blind_open", "manipulation", "manipulation_2", "open")
    for name in (kind if kind.startswith("blind") else f"development_{kind}" for kind in kinds):
        base = written(name)
        sets[name] = (base, base)
    report: dict[str, Any] = {}
    for name, (queries, base) in sets.items():
        if arguments.sets and name not in arguments.sets:
            continue
        for way, score in ways(caption).items():
            found = precision(score(queries.texts, base.texts), queries, base)
            report.setdefault(name, {})[way] = found
            low, high = found["interval"]
            turned = "" if found["opposite"] is None else f"  opposite {found['opposite']:.3f}"
            print(f"{name:<27}{way:<8}{found['precision_at_9']:.3f} ({low:.3f} to {high:.3f}){turned}", flush=True)
    if (arguments.data / "droid").is_dir() and not arguments.sets:
        report["product"] = through_the_product(caption, arguments.data, sets["droid"][0])
        print(json.dumps(report["product"], indent=1))
        report["floor"] = floor(
            caption, [row["caption"] for row in read(arguments.data / "droid" / "captions.jsonl")]
        )
        print(json.dumps(report["floor"], indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(arguments.out)


if __name__ == "__main__":
    main()
