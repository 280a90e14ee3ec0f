"""Vector search through an index: whatever a condition leaves, what is found fulfils it and is nearest, nearly."""

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import BTree, IvfRq

from motionrag.retrieval import nearest
from motionrag.retrieval.nearest import Nearest

ROWS, WIDTH = 4000, 256


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
    made.create_index("text_vector", config=IvfRq(distance_type="cosine", num_partitions=8, num_bits=1))
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
        found = search.rows("text_vector", query, 9, where=where)
        exact = search.rows("text_vector", query, 9, where=where, exact=True)
        assert found.num_rows == min(9, allowed * ROWS // 100)
        assert (labs[found.column("_rowid").to_numpy()] < max(allowed, 8)).all()
        assert found.column("_distance").to_pylist() == sorted(found.column("_distance").to_pylist())
        same = set(found.column("_rowid").to_pylist()) & set(exact.column("_rowid").to_pylist())
        recalls.append(len(same) / max(1, exact.num_rows))
    assert allowed == 0 or np.mean(recalls) >= 0.98


def test_counts_are_of_the_version_that_is_searched(table, queries, tmp_path):
    made = lancedb.connect(tmp_path).create_table("clips", table.to_arrow())
    made.create_index("text_vector", config=IvfRq(distance_type="cosine", num_partitions=8, num_bits=1))
    search = Nearest(made)
    assert search.rows("text_vector", queries[0], 9, where="lab = 7").num_rows == 9
    made.delete("lab = 7 AND true")
    assert search.rows("text_vector", queries[0], 9, where="lab = 7").num_rows == 0
