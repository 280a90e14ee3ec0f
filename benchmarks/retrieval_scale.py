"""How quick and how exact a search is in large databases: latency and recall@9 against comparing with every row.

Clips with long captions put together from sentences of the caption encoder's training text; their vectors are those
sentences' together, as the encoder joins the windows of a long text. Metadata columns and tokens are random. Prompts
are those of the training text, none of which is a caption. The search is the product's own (`Retriever`), in the
mode users get, and the time is that of a whole call: the condition, the vector index, the words of the prompt,
re-ranking, leaving out near-duplicates, and fetching the nine references' tokens. Encoding the prompt is timed
apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from motionrag.encoders.protocols import EncoderInfo
from motionrag.encoders.sentences import sentences
from motionrag.retrieval.schema import SIGNATURE_WIDTH, DatabaseSettings, TokenInfo
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder, method_fingerprint
from motionrag.training.texts import read_texts

CHUNK = 20_000
SENTENCES = 20_000
TEXTS = Path(__file__).parents[1] / "recipes" / "captions" / "texts"
A_CAPTION = 5  # sentences
FILTERS = {"no filter": None, "half of the rows": "lab < 50", "1% of the rows": "lab = 7"}


def settings(caption: CaptionEncoder, queries: int, width: int) -> DatabaseSettings:
    """Of a database with tokens [queries, width] of motion and appearance."""

    def info(kind: str) -> EncoderInfo:
        return EncoderInfo(kind=kind, model="synthetic", dimension=64, length=8, fingerprint="0" * 64)

    def tokens(kind: str) -> TokenInfo:
        return TokenInfo(bundle="synthetic", fingerprint=kind, queries=queries, width=width)

    return DatabaseSettings(
        text=caption.info,
        caption_method=method_fingerprint(),
        text_width=caption.width,
        motion=info("motion"),
        appearance=info("appearance"),
        motion_tokens=tokens("motion"),
        appearance_tokens=tokens("appearance"),
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def written() -> tuple[list[str], list[str]]:
    """Sentences of captions, and prompts none of which is one."""
    pairs = [pair for group in read_texts(TEXTS)[0] for pair in group.pairs]
    parts = {text[a:b].strip() for _, text in pairs for a, b in sentences(text)}
    return sorted(parts), sorted({prompt for prompt, _ in pairs} - parts)


class Synthesis:
    """Clips whose captions are of several sentences."""

    def __init__(self, caption: CaptionEncoder, seed: int = 0) -> None:
        self.random, self.motion = np.random.default_rng(seed), caption.motion
        parts = written()[0]
        chosen = [parts[i] for i in self.random.permutation(len(parts))[:SENTENCES]]
        lengths, self.means, self.weights = self.motion.parts(chosen)
        self.sentences, self.lengths = np.array(chosen, dtype=object), np.array(lengths)

    def captions(self, count: int) -> tuple[list[str], np.ndarray]:
        """Texts, and their vectors f32 [count, W]."""
        picked = self.random.integers(0, len(self.sentences), (count, A_CAPTION))
        shares = self.weights[:, picked].softmax(-1)
        means = torch.einsum("knp,knpd->knd", shares, self.means[:, picked])
        vectors = self.motion.joined(means, self.lengths[picked].sum(-1).tolist())
        return [" ".join(one) for one in self.sentences[picked]], vectors

    def rows(self, first: int, count: int, schema: pa.Schema) -> pa.Table:
        captions, vectors = self.captions(count)
        columns: dict[str, Any] = {
            "id": [f"{i:032x}" for i in range(first, first + count)],
            "video": [f"/videos/{i:08d}.mp4" for i in range(first, first + count)],
            "span": ["whole"] * count,
            "split": [""] * count,
            "start_s": np.zeros(count),
            "end_s": self.random.uniform(1, 10, count),
            "caption": captions,
            "content_hash": [f"{i:064x}" for i in range(first, first + count)],
            "file_size": np.arange(count),
            "file_mtime_ns": np.arange(count),
            "duplicate_of": pa.nulls(count, pa.string()),
            "bands": [[i] for i in range(first, first + count)],
            "lab": self.random.integers(0, 100, count),
        }
        for field in schema:
            if pa.types.is_fixed_size_list(field.type):
                columns[field.name] = self._array(field, vectors)
        return pa.table(
            [
                pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name]
                for f in schema
            ],
            schema=schema,
        )

    def _array(self, field: pa.Field, values: np.ndarray) -> pa.Array:
        size = field.type.list_size
        if field.name != "text_vector":
            shape = (len(values), min(size, SIGNATURE_WIDTH))
            values = unit(self.random.standard_normal(shape, dtype=np.float32))
            values = np.tile(values, (1, -(-size // values.shape[1])))[:, :size]
        return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float16).reshape(-1)), type=field.type)


def build(
    folder: Path, rows: int, caption: CaptionEncoder, tokens: tuple[int, int]
) -> tuple[MotionDatabase, dict[str, float]]:
    shutil.rmtree(folder, ignore_errors=True)
    database = MotionDatabase.create(folder, settings(caption, *tokens))
    database.ensure_columns({"lab": pa.int64()})
    made = Synthesis(caption)
    begin = time.perf_counter()
    for first in range(0, rows, CHUNK):
        # straight into the table: what `add` does beside it (near-duplicates, locks) is measured in ingest.py
        database._clips.add(made.rows(first, min(CHUNK, rows - first), database.schema))
        print(f"  {min(first + CHUNK, rows):,}/{rows:,} rows, {time.perf_counter() - begin:.0f} s", flush=True)
    written = time.perf_counter() - begin
    begin = time.perf_counter()
    database.compact()
    return database, {"write_s": written, "index_s": time.perf_counter() - begin}


def measure(database: MotionDatabase, caption: CaptionEncoder, queries: int, exact: int) -> list[dict[str, Any]]:
    retriever = Retriever(database, caption)
    random, prompts = np.random.default_rng(99), written()[1]
    chosen = [prompts[i] for i in random.permutation(len(prompts))[:queries]]
    asked = [retriever.query(prompt) for prompt in chosen]
    results = []
    for name, where in FILTERS.items():
        for query in asked[:20]:
            retriever.search(query, where=where, floor=-1, tokens=True)
        seconds, found = [], []
        for query in asked:
            begin = time.perf_counter()
            found.append(retriever.search(query, where=where, floor=-1, tokens=True))
            seconds.append(time.perf_counter() - begin)
        recalls = []
        for query, references in zip(asked[:exact], found, strict=False):
            truth = {item.record.id for item in retriever.search(query, where=where, floor=-1, exact=True)}
            recalls.append(len(truth & {item.record.id for item in references}) / len(truth))
        results.append(
            {
                "filter": name,
                "p50_ms": float(np.percentile(seconds, 50) * 1e3),
                "p95_ms": float(np.percentile(seconds, 95) * 1e3),
                "recall_at_9": float(np.mean(recalls)),
                "queries": len(asked),
                "compared": len(recalls),
            }
        )
        print(f"  {results[-1]}", flush=True)
    return results


def prompt_ms(caption: CaptionEncoder) -> float:
    seconds = []
    for i in range(60):
        begin = time.perf_counter()
        caption.encode_prompts([f"a hand slowly opens drawer number {i}"])
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds[10:]) * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--tokens", type=int, nargs=2, default=[16, 64], metavar=("Q", "D"), help="size of the tokens"
    )
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--exact", type=int, default=100, help="queries compared with every row")
    parser.add_argument("--folder", type=Path, default=Path("outputs/retrieval_scale"))
    parser.add_argument("--keep", action="store_true", help="use databases that are there, and leave them")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    caption = CaptionEncoder()
    report: list[dict[str, Any]] = []
    for rows in arguments.rows:
        folder = arguments.folder / f"{rows}-{arguments.tokens[0]}x{arguments.tokens[1]}"
        print(f"{rows:,} rows", flush=True)
        if arguments.keep and folder.exists():
            database, times = MotionDatabase.open(folder), {}
        else:
            database, times = build(folder, rows, caption, tuple(arguments.tokens))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        report.append(
            {
                "rows": rows,
                "tokens": arguments.tokens,
                "vector_width": caption.width,
                "gigabytes": size / 1e9,
                **times,
                "prompt_ms": prompt_ms(caption),
                "searches": measure(database, caption, arguments.queries, arguments.exact),
                "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "cores": os.cpu_count(),
            }
        )
        print(json.dumps(report[-1]), flush=True)
        if not arguments.keep:
            shutil.rmtree(folder)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(arguments.out)


if __name__ == "__main__":
    main()
