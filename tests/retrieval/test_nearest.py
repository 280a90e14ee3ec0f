"""Vector search through an index: whatever a condition leaves, what is found fulfils it and is nearest, nearly."""

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import BTree, IvfRq

from motionrag.retrieval import nearest
from motionrag.retrieval.lance import index_words
from motionrag.retrieval.nearest import Nearest
from motionrag.retrieval.search import FEWEST

ROWS, WIDTH = 4000, 256
LIMIT = FEWEST  # as a search for 9 references asks


def clustered(count, seed):
    """Vectors around forty centres, as captions' vectors are."""
    centres, random = np.random.default_rng(9).standard_normal((40, WIDTH)), np.random.default_rng(seed)
    return centres[random.integers(0, 40, count)] + 0.5 * random.standard_normal((count, WIDTH))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    vectors = clustered(ROWS, seed=0)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).reshape(-1)), WIDTH)
    data = pa.table({"lab": np.arange(ROWS) % 100, "text_vector": column})
    made = lancedb.connect(tmp_path_factory.mktemp("nearest")).create_table("clips", data)
    made.create_index("lab", config=BTree())
    made.create_index("text_vector", config=IvfRq(distance_type="cosine", num_partitions=8, num_bits=4))
    return made


@pytest.fixture
def queries():
    return clustered(40, seed=1).astype(np.float32)


@pytest.mark.parametrize(
    ("where", "allowed"),
    [(None, 100), ("lab < 50", 50), ("lab < 10", 10), ("lab = 7", 1), ("lab = 7 AND lab = 8", 0)],
    ids=["all", "half: filtered after", "a tenth: filtered before", "few: all compared", "none"],
)
def test_each_way_finds_what_comparing_with_every_row_finds(table, queries, monkeypatch, where, allowed):
    monkeypatch.setattr(nearest, "COMPARE_ALL", 50)
    search = Nearest(table)
    labs = table.to_arrow().column("lab").to_numpy()
    recalls = []
    for query in queries:
        found = search.rows("text_vector", query, LIMIT, where=where)
        exact = search.rows("text_vector", query, 9, where=where, exact=True)
        assert len(found) == min(LIMIT, allowed * ROWS // 100)
        assert (labs[found] < max(allowed, 8)).all()
        recalls.append(len(set(found) & set(exact)) / max(1, len(exact)))
    assert allowed == 0 or np.mean(recalls) >= 0.98


def test_counts_are_of_the_version_that_is_searched(table, queries, tmp_path):
    made = lancedb.connect(tmp_path).create_table("clips", table.to_arrow())
    made.create_index("text_vector", config=IvfRq(distance_type="cosine", num_partitions=8, num_bits=4))
    search = Nearest(made)
    assert len(search.rows("text_vector", queries[0], 9, where="lab = 7")) == 9
    made.delete("lab = 7 AND true")
    assert search.rows("text_vector", queries[0], 9, where="lab = 7") == []


def test_few_rows_are_kept_in_memory_for_few_conditions(table, queries, monkeypatch):
    search = Nearest(table)
    for lab in range(nearest.KEPT + 2):
        search.rows("text_vector", queries[0], 9, where=f"lab = {lab}")
    assert [where for _, where in search._vectors] == [f"lab = {lab}" for lab in range(2, nearest.KEPT + 2)]
    monkeypatch.setattr(table, "search", None)  # what is kept is not read again
    assert len(search.rows("text_vector", queries[1], 9, where="lab = 2")) == 9


@pytest.mark.parametrize("where", [None, "lab < 50", "lab = 7"], ids=["all", "filtered after", "filtered before"])
def test_words_find_the_best_rows_that_fulfil_a_condition(tmp_path, where):
    texts = [f"a horse {'gallops ' * (1 + i % 3)}past tree number{i}" for i in range(400)]
    made = lancedb.connect(tmp_path).create_table("clips", pa.table({"lab": np.arange(400) % 100, "text": texts}))
    index_words(made, ["text"])
    search, labs = Nearest(made), np.arange(400) % 100
    everything = search.words("text", "The galloping of the horse", 400)
    allowed = np.ones(400, dtype=bool) if where is None else labs < 50 if where == "lab < 50" else labs == 7
    found = search.words("text", "The galloping of the horse", 3, where=where)
    best = sorted((points for row, points in everything.items() if allowed[row]), reverse=True)[:3]
    assert list(found.values()) == pytest.approx(best)
    assert all(allowed[row] for row in found)
