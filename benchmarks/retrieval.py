"""Does search find the motion? Sets of prompts and captions that others wrote, and ways to compare them.

    dense    cosine of whole captions by the plain text encoder (MiniLM), as published
    bm25     full-text search (LanceDB's)
    fusion   reciprocal rank fusion of the two
    vectors  `CaptionEncoder` alone
    ours     that and the words they share, the score of `motionrag search`
    own      ours with a user's own sentence-transformers model (here MiniLM again) beside the caption encoder

Sets of short captions, a query searching all others: precision@9.

    droid                 robot manipulation (shared/data/droid): the class is its `verb`, Put with Place and Pick
                          with Take, Other left out; a query's whole lab is left out of what is searched
    blind_paraphrase      captions of droid in other words, searched in droid without the lab of the source
    blind_manipulation    hand-written captions of manipulation, 14 classes, the same objects in all of them
    blind_open            of anything: people, nature, the camera; 34 classes

Sets of long captions as data sets have them, searched by short prompts: precision@k, k the captions of a class.

    vbench2               VBench 2.0's prompts, each with two long rewrites (shared/data/prompts), k 2
    long_captions         48 motions, four captions each, 20 of them in pairs of opposites (shared/data/prompts), k 4
    blind_actions         70 human actions, two long captions each, k 2
    blind_opposites       12 pairs of opposite motions, four long captions each, k 4
    blind_hobbies         59 more human actions, two long captions each, k 2
    blind_directions      12 more pairs of opposite motions, four long captions each, k 4

None of them is in the training text of the caption encoder (recipes/captions/texts). The blind sets were written by
authors who saw neither the code, nor the training text, nor each other's sets.

Precision@k is the share of the k best whose class is the query's, a mean over queries; where a class has fewer
captions, those are k. "top1" is the share of queries whose best is of their class, "opposite" that of the k best
that move the opposite way, over queries that have an opposite. Intervals are 95%, bootstrapped over queries;
"difference" is ours less dense on the same queries.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lancedb
import numpy as np

from motionrag.encoders import load_text_encoder
from motionrag.retrieval.encoding import ClipEncoders
from motionrag.retrieval.ingest import ingest
from motionrag.retrieval.lance import index_words
from motionrag.retrieval.nearest import Nearest
from motionrag.retrieval.search import FLOOR, WORDS_SHARE, Retriever, words_score
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
SHARED = ROOT.parent / "shared" / "data"
K = 9
VERBS = {"Put": "put", "Place": "put", "Pick": "pick", "Take": "pick", "Move": "move", "Remove": "remove"}
VERBS |= {"Open": "open", "Close": "close", "Turn": "turn"}
PAIRS = ["open close", "push pull", "throw catch", "sit_down stand_up", "grow shrink", "zoom_in zoom_out"]
PAIRS += ["pan_left pan_right", "rise_ascend sink_descend"]
OPPOSITE = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}
Way = Callable[[list[str], list[str]], np.ndarray]


@dataclass(frozen=True)
class Texts:
    """Texts, each with its class, and a group that a query does not search (its lab, or itself)."""

    texts: list[str]
    classes: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Case:
    """Queries, what they search, and which class is the opposite of which."""

    queries: Texts
    base: Texts
    k: int
    opposites: dict[str, str]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(pairs: list[tuple[str, str]], groups: np.ndarray | None = None) -> Texts:
    """From (text, class)s; without groups, no text is left out of what a query searches."""
    places = np.arange(len(pairs)) if groups is None else groups
    return Texts([text for text, _ in pairs], np.array([name for _, name in pairs]), places)


def droid(folder: Path) -> Texts:
    rows = [row for row in read(folder / "droid" / "captions.jsonl") if row["verb"] in VERBS]
    return texts([(row["caption"], VERBS[row["verb"]]) for row in rows], np.array([row["lab"] for row in rows]))


def paraphrases(base: Texts) -> Texts:
    """Grouped by the lab of the caption they were made from."""
    labs = dict(zip(base.texts, base.groups, strict=True))
    rows = [row for row in read(DATA / "blind_paraphrase.jsonl") if row["source"] in labs]
    return texts([(row["caption"], row["motion"]) for row in rows], np.array([labs[row["source"]] for row in rows]))


def each_other(name: str) -> Case:
    rows = texts([(row["caption"], row["motion"]) for row in read(DATA / f"{name}.jsonl")])
    return Case(rows, rows, K, OPPOSITE)


def prompted(prompts: list[tuple[str, str]], captions: list[tuple[str, str]], k: int, opposites: Any = None) -> Case:
    """Short prompts that search long captions, none of which is the prompt's own."""
    return Case(texts(prompts, np.full(len(prompts), -1)), texts(captions), k, opposites or {})


def rewritten(path: Path) -> Case:
    rows = list(enumerate(read(path)))
    captions = [(caption, str(i)) for i, row in rows for caption in row["captions"]]
    return prompted([(row["prompt"], str(i)) for i, row in rows], captions, 2)


def opposed(path: Path) -> Case:
    rows = read(path)
    by_kind = {
        kind: [(row["text"], row["class"]) for row in rows if row["kind"] == kind] for kind in ("prompt", "caption")
    }
    opposites = {row["class"]: row["opposite"] for row in rows if row["opposite"]}
    return prompted(by_kind["prompt"], by_kind["caption"], 4, opposites)


def cases(data: Path) -> dict[str, Case]:
    """All sets; those of the shared folder only where it is there."""
    found: dict[str, Case] = {}
    if (data / "droid").is_dir():
        base = droid(data)
        found["droid"] = Case(base, base, K, OPPOSITE)
        found["blind_paraphrase"] = Case(paraphrases(base), base, K, OPPOSITE)
    found |= {name: each_other(name) for name in ("blind_manipulation", "blind_open")}
    if (data / "prompts").is_dir():
        found["vbench2"] = rewritten(data / "prompts" / "vbench2.jsonl")
        found["long_captions"] = opposed(data / "prompts" / "long_captions.jsonl")
    found["blind_actions"] = rewritten(DATA / "blind_actions.jsonl")
    found["blind_opposites"] = opposed(DATA / "blind_opposites.jsonl")
    found["blind_hobbies"] = rewritten(DATA / "blind_hobbies.jsonl")
    found["blind_directions"] = opposed(DATA / "blind_directions.jsonl")
    return found


def bm25(queries: list[str], captions: list[str]) -> np.ndarray:
    """Scores [queries, captions] of the product's full-text search."""
    return _bm25(tuple(queries), tuple(captions))


@cache
def _bm25(queries: tuple[str, ...], captions: tuple[str, ...]) -> np.ndarray:
    scores = np.zeros((len(queries), len(captions)), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        table = lancedb.connect(folder).create_table("t", [{"text": text} for text in captions])
        index_words(table, ["text"])
        words = Nearest(table)
        for row, query in enumerate(queries):
            for place, points in words.words("text", query, len(captions)).items():
                scores[row, place] = points  # a table written at once numbers its rows from 0
    return scores


def relevance(encoder: CaptionEncoder, queries: list[str], captions: list[str]) -> np.ndarray:
    """Of captions to queries [queries, captions]."""
    return _relevance(encoder, tuple(queries), tuple(captions))


@cache
def _relevance(encoder: CaptionEncoder, queries: tuple[str, ...], captions: tuple[str, ...]) -> np.ndarray:
    vectors = encoder.encode(captions)
    return np.stack([encoder.relevance(query, vectors) for query in encoder.encode_prompts(queries)])


def ranks(scores: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(scores.shape[1])[None], axis=1)
    return found


def ways() -> dict[str, Way]:
    plain, ours = load_text_encoder(), CaptionEncoder()
    beside = CaptionEncoder(plain)

    def dense(queries: list[str], captions: list[str]) -> np.ndarray:
        return plain.encode(queries) @ plain.encode(captions).T

    def fusion(queries: list[str], captions: list[str]) -> np.ndarray:
        return sum(1 / (60 + ranks(way(queries, captions))) for way in (dense, bm25))

    def by(encoder: CaptionEncoder) -> Way:
        return lambda queries, captions: relevance(encoder, queries, captions)

    def scored(encoder: CaptionEncoder) -> Way:
        vectors = by(encoder)
        return lambda queries, captions: (
            (1 - WORDS_SHARE) * vectors(queries, captions) + words_score(bm25(queries, captions))
        )

    return {
        "dense": dense,
        "bm25": bm25,
        "fusion": fusion,
        "vectors": by(ours),
        "ours": scored(ours),
        "own": scored(beside),
    }


def measured(scores: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    """Of each query: precision, whether the best is right, and the share of opposites (of those that have one)."""
    queries, base = case.queries, case.base
    allowed = queries.groups[:, None] != base.groups[None]
    best = np.argsort(-np.where(allowed, scores, -np.inf), axis=1, kind="stable")[:, : case.k]
    same = base.classes[best] == queries.classes[:, None]
    there = ((base.classes[None] == queries.classes[:, None]) & allowed).sum(1)
    turned = np.array([case.opposites.get(name, "") for name in queries.classes])
    against = (base.classes[best] == turned[:, None]).mean(1)
    return {
        "precision": same.sum(1) / np.minimum(case.k, there),
        "top1": same[:, 0],
        "opposite": against[turned != ""],
    }


def interval(values: np.ndarray) -> list[float]:
    draws = np.random.default_rng(0).choice(values.astype(float), (2000, len(values))).mean(1)
    return [round(float(edge), 4) for edge in np.percentile(draws, [2.5, 97.5])]


def compare(name: str, case: Case, chosen: dict[str, Way]) -> dict[str, Any]:
    """All ways on one set, printed and returned."""
    report: dict[str, Any] = {"queries": len(case.queries.texts), "k": case.k}
    found = {way: measured(score(case.queries.texts, case.base.texts), case) for way, score in chosen.items()}
    for way, values in found.items():
        means = {key: round(float(each.mean()), 4) for key, each in values.items() if len(each)}
        report[way] = {**means, "interval": interval(values["precision"])}
        if way == "ours":
            report[way]["difference"] = interval(values["precision"] - found["dense"]["precision"])
        low, high = report[way]["interval"]
        precision = f"P@{case.k} {means.pop('precision'):.3f} ({low:.3f} to {high:.3f})"
        print(f"{name:<19}{way:<8}", precision, *(f" {key} {mean:.3f}" for key, mean in means.items()), flush=True)
    return report


def through_the_product(caption: CaptionEncoder, data: Path, queries: Texts) -> dict[str, Any]:
    """Precision@9 of `Retriever.search` on a database made of droid's videos, without and with the floor."""
    hits: dict[str, list[float]] = {"search": [], "search with the floor": []}
    found: list[int] = []
    with tempfile.TemporaryDirectory() as place:
        encoders = ClipEncoders(caption=caption)
        database = MotionDatabase.create(place, encoders.settings)
        jobs = [job for job in read_jobs(data / "droid") if job.metadata["verb"] in VERBS]
        ingest(jobs, database, encoders, workers=2)
        retriever = Retriever(database, caption)
        for text, kind, lab in zip(queries.texts, queries.classes, queries.groups, strict=True):
            for name, least in (("search", -1.0), ("search with the floor", FLOOR)):
                references = retriever.search(retriever.query(text), K, where=f"lab <> '{lab}'", floor=least)
                same = [VERBS[item.record.metadata["verb"]] == kind for item in references]
                hits[name].append(float(np.mean(same)) if same else 0.0)
            found.append(len(references))
    report: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in hits.items()}
    return {**report, "references found above the floor": round(float(np.mean(found)), 2), "queries": len(found)}


def floor(caption: CaptionEncoder, found: dict[str, Case], captions: dict[str, list[str]]) -> dict[str, Any]:
    """Of prompts whose motion a set of captions has, how many find something; of others, how many find nothing."""
    prompts = {
        "blind_actions": [(row["prompt"], row["relevant"]) for row in read(DATA / "blind_actions_floor.jsonl")],
    }
    if "droid" in captions:
        prompts["droid"] = [
            (row["prompt"], name == "blind_relevant")
            for name in ("blind_relevant", "blind_irrelevant")
            for row in read(DATA / f"{name}.jsonl")
        ]
    for name in ("vbench2", "long_captions", "blind_opposites", "blind_hobbies", "blind_directions"):
        if name in found:
            prompts[name] = [(text, True) for text in found[name].queries.texts]
    rows = read(DATA / "blind_floor.jsonl")
    captions["blind_floor"] = [row["text"] for row in rows if row["kind"] == "caption"]
    prompts["blind_floor"] = [(row["text"], row["relevant"]) for row in rows if row["kind"] == "prompt"]
    report: dict[str, Any] = {"floor": FLOOR}
    for name, asked in prompts.items():
        best = relevance(caption, [text for text, _ in asked], captions[name]).max(1)
        relevant = np.array([is_relevant for _, is_relevant in asked])
        report[name] = {"relevant found something": round(float((best[relevant] >= FLOOR).mean()), 3)}
        if not relevant.all():
            report[name]["irrelevant found nothing"] = round(float((best[~relevant] < FLOOR).mean()), 3)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of droid/ and prompts/ (../shared/data)")
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found, chosen = cases(arguments.data), ways()
    for name, wanted, known in (("--sets", arguments.sets, found), ("--ways", arguments.ways, chosen)):
        if wanted and (unknown := set(wanted) - known.keys()):
            parser.error(f"{name}: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if arguments.ways:
        chosen = {name: way for name, way in chosen.items() if name in {"dense", *arguments.ways}}
    if "droid" not in found:
        print(f"{arguments.data}: holds no droid/, so only the sets of this repository are measured")
    report: dict[str, Any] = {
        name: compare(name, case, chosen) for name, case in found.items() if name in (arguments.sets or found)
    }
    if not arguments.sets:
        caption = CaptionEncoder()
        captions = {name: case.base.texts for name, case in found.items()}
        if "droid" in found:  # with the captions that are of no class
            captions["droid"] = [row["caption"] for row in read(arguments.data / "droid" / "captions.jsonl")]
        report["floor"] = floor(caption, found, captions)
        print(json.dumps(report["floor"], indent=1))
        if "droid" in found:
            report["product"] = through_the_product(caption, arguments.data, found["droid"].queries)
            print(json.dumps(report["product"], indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(arguments.out)


if __name__ == "__main__":
    main()
