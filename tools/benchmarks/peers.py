"""Other vector stores, one small class each. They hold the scenes only.

Settings aim at a recall@10 of 0.99 for image queries where a store has settings: a graph with 32
neighbours, built with a list of 200 and searched with one of 128. FAISS,
hnswlib, usearch and numpy search with one thread; the others keep their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tools.benchmarks.bench import K, Settings
from tools.benchmarks.data import FloatArray, IntArray, Pairs
from tools.benchmarks.entries import Labels
from tools.benchmarks.systems import ExactFaiss, OurMemory, System

_NEIGHBOURS, _BUILD_LIST, _SEARCH_LIST = 32, 200, 128
_TABLE = "scenes"


class Hnswlib:
    """hnswlib: a graph in RAM, written as one file; labels are kept beside it."""

    name: ClassVar[str] = "hnswlib"
    package: ClassVar[str] = "hnswlib"
    note: ClassVar[str] = "in RAM, saved at the end; filters by a Python call per visited entry"
    can_filter: ClassVar[bool] = True

    def __init__(self, folder: Path, settings: Settings) -> None:
        import hnswlib

        self._file, self._size = folder / "graph.bin", settings.recipe.size
        self._labels = Labels(settings.recipe.size, settings.recipe.seed)
        self._passing: dict[str, set[int]] = {}
        self._index = hnswlib.Index("ip", settings.recipe.dim)

    def create(self) -> None:
        """Start empty."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._index.init_index(self._size, M=_NEIGHBOURS, ef_construction=_BUILD_LIST)

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append scenes."""
        self._index.add_items(pairs.scenes, rows)

    def finish(self) -> None:
        """Write the file."""
        self._index.save_index(str(self._file))

    def open(self) -> None:
        """Read the file."""
        self._index.load_index(str(self._file))
        self._index.set_ef(_SEARCH_LIST)
        self._index.set_num_threads(1)

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return np.asarray(self._index.knn_query(vector, K)[0][0], dtype=np.int64)

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same in a group; nothing where the graph's walk met too few that pass."""
        if group not in self._passing:
            chosen = self._labels.filter("metadata", group)
            self._passing[group] = set(chosen[1].tolist()) if chosen else set()
        passing = self._passing[group]
        try:
            found = self._index.knn_query(
                vector, min(K, len(passing)), filter=lambda row: row in passing
            )
        except RuntimeError:  # "Cannot return the results in a contiguous 2D array"
            return np.empty(0, dtype=np.int64)
        return np.asarray(found[0][0], dtype=np.int64)

    def close(self) -> None:
        """Nothing is held."""


class Usearch:
    """usearch: a graph over half-precision vectors in RAM, written as one file."""

    name: ClassVar[str] = "usearch"
    package: ClassVar[str] = "usearch"
    note: ClassVar[str] = "float16, in RAM, saved at the end; no filters from Python"
    can_filter: ClassVar[bool] = False

    def __init__(self, folder: Path, settings: Settings) -> None:
        from usearch.index import Index

        self._file = folder / "graph.usearch"
        self._index = Index(
            ndim=settings.recipe.dim, metric="ip", dtype="f16", connectivity=_NEIGHBOURS,
            expansion_add=_BUILD_LIST, expansion_search=_SEARCH_LIST,
        )  # fmt: skip

    def create(self) -> None:
        """Start empty."""
        self._file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append scenes."""
        self._index.add(rows, pairs.scenes)

    def finish(self) -> None:
        """Write the file."""
        self._index.save(str(self._file))

    def open(self) -> None:
        """Read the file into RAM."""
        self._index.load(str(self._file))

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return np.asarray(self._index.search(vector, K, threads=1).keys, dtype=np.int64)

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """Not to be called."""
        raise NotImplementedError(self.name)

    def close(self) -> None:
        """Nothing is held."""


class LanceDb:
    """LanceDB: columns in files, with an inverted file of graphs over 8-bit codes."""

    name: ClassVar[str] = "lancedb"
    package: ClassVar[str] = "lancedb"
    note: ClassVar[str] = "IVF_HNSW_SQ, reads from disk, refines by full vectors"
    can_filter: ClassVar[bool] = True

    def __init__(self, folder: Path, settings: Settings) -> None:
        import lancedb

        folder.mkdir(parents=True, exist_ok=True)
        self._database = lancedb.connect(folder)
        self._dim = settings.recipe.dim

    def create(self) -> None:
        """Start empty."""
        self._table = self._database.create_table(_TABLE, schema=self._schema())

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append scenes, a new version of the table."""
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(pairs.scenes.ravel()), self._dim)
        columns = [pa.array(rows), pa.array(labels.of(rows)), vectors]
        self._table.add(pa.table(columns, schema=self._schema()))

    def finish(self) -> None:
        """Build the indexes."""
        from lancedb.index import Bitmap, HnswSq

        settings = HnswSq(distance_type="dot", m=_NEIGHBOURS, ef_construction=_BUILD_LIST)
        self._table.create_index("vector", config=settings)
        self._table.create_index("group", config=Bitmap())
        self._table.optimize()

    def open(self) -> None:
        """Open the table."""
        self._table = self._database.open_table(_TABLE)

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return self._rows(self._query(vector))

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same in a group, filtered before the search."""
        return self._rows(self._query(vector).where(f"\"group\" = '{group}'", prefilter=True))

    def close(self) -> None:
        """Nothing to close."""

    def _query(self, vector: FloatArray) -> Any:
        query = self._table.search(vector, vector_column_name="vector").distance_type("dot")
        return query.nprobes(20).ef(_SEARCH_LIST).refine_factor(4).limit(K)

    def _rows(self, query: Any) -> IntArray:
        found = query.select(["id", "_distance"]).to_arrow()
        return np.asarray(found.column("id").to_numpy(), dtype=np.int64)

    def _schema(self) -> Any:
        import pyarrow as pa

        vector = pa.list_(pa.float32(), self._dim)
        return pa.schema([("id", pa.int64()), ("group", pa.string()), ("vector", vector)])


class Chroma:
    """Chroma: a graph in RAM, with SQLite for what lies beside the vectors."""

    name: ClassVar[str] = "chroma"
    package: ClassVar[str] = "chromadb"
    note: ClassVar[str] = "HNSW"
    can_filter: ClassVar[bool] = True

    def __init__(self, folder: Path, settings: Settings) -> None:
        import chromadb
        from chromadb.config import Settings as ChromaSettings

        folder.mkdir(parents=True, exist_ok=True)
        self._client = chromadb.PersistentClient(
            folder, settings=ChromaSettings(anonymized_telemetry=False)
        )

    def create(self) -> None:
        """Start empty."""
        graph = {
            "space": "ip", "max_neighbors": _NEIGHBOURS, "ef_construction": _BUILD_LIST,
            "ef_search": _SEARCH_LIST,
        }  # fmt: skip
        self._collection = self._client.create_collection(
            _TABLE, configuration={"hnsw": graph}, embedding_function=None
        )

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append scenes."""
        self._collection.add(
            ids=[str(row) for row in rows],
            embeddings=np.ascontiguousarray(pairs.scenes),
            metadatas=[{"group": group} for group in labels.of(rows)],
        )

    def finish(self) -> None:
        """Everything is written already."""

    def open(self) -> None:
        """Open the collection."""
        self._collection = self._client.get_collection(_TABLE, embedding_function=None)

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return self._rows(vector, None)

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same in a group."""
        return self._rows(vector, {"group": group})

    def close(self) -> None:
        """Nothing to close."""

    def _rows(self, vector: FloatArray, where: Any) -> IntArray:
        found = self._collection.query(
            query_embeddings=vector[np.newaxis], n_results=K, include=[], where=where
        )
        return np.array([int(row) for row in found["ids"][0]], dtype=np.int64)


class MilvusLite:
    """Milvus Lite: Milvus in the process, on files."""

    name: ClassVar[str] = "milvus lite"
    package: ClassVar[str] = "milvus_lite"
    note: ClassVar[str] = "HNSW"
    can_filter: ClassVar[bool] = True

    def __init__(self, folder: Path, settings: Settings) -> None:
        from pymilvus import MilvusClient

        folder.mkdir(parents=True, exist_ok=True)
        self._client = MilvusClient(str(folder / "milvus.db"))
        self._dim = settings.recipe.dim

    def create(self) -> None:
        """Start empty."""
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("group", DataType.VARCHAR, max_length=32)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self._dim)
        index = self._client.prepare_index_params()
        index.add_index(
            "vector", index_type="HNSW", metric_type="IP",
            params={"M": _NEIGHBOURS, "efConstruction": _BUILD_LIST},
        )  # fmt: skip
        self._client.create_collection(_TABLE, schema=schema, index_params=index)

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append scenes."""
        self._client.insert(
            _TABLE,
            [
                {"id": int(row), "group": group, "vector": vector}
                for row, group, vector in zip(rows, labels.of(rows), pairs.scenes, strict=True)
            ],
        )

    def finish(self) -> None:
        """Write everything and close."""
        self._client.flush(_TABLE)
        self._client.load_collection(_TABLE)  # builds the index
        self._client.close()

    def open(self) -> None:
        """Load the collection."""
        self._client.load_collection(_TABLE)

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return self._rows(vector, "")

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same in a group."""
        return self._rows(vector, f"group == '{group}'")

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _rows(self, vector: FloatArray, wanted: str) -> IntArray:
        found = self._client.search(
            _TABLE, data=[vector], limit=K, filter=wanted, output_fields=["id"],
            search_params={"metric_type": "IP", "params": {"ef": _SEARCH_LIST}},
        )  # fmt: skip
        return np.array([hit["id"] for hit in found[0]], dtype=np.int64)


class QdrantLocal:
    """Qdrant's local mode: exact, in numpy, with SQLite for the disk."""

    name: ClassVar[str] = "qdrant local"
    package: ClassVar[str] = "qdrant_client"
    note: ClassVar[str] = "exact, in Python; meant for tests by its makers"
    can_filter: ClassVar[bool] = True

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._dim = folder, settings.recipe.dim
        import qdrant_client  # noqa: F401  (so that its RAM is not counted as the entries')

    def create(self) -> None:
        """Start empty."""
        from qdrant_client.models import Distance, VectorParams

        self.open()
        self._client.create_collection(
            _TABLE, vectors_config=VectorParams(size=self._dim, distance=Distance.DOT)
        )

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append scenes."""
        from qdrant_client.models import Batch

        payloads: list[Any] = [{"group": group} for group in labels.of(rows)]
        self._client.upsert(
            _TABLE,
            Batch(ids=rows.tolist(), vectors=pairs.scenes.tolist(), payloads=payloads),
        )

    def finish(self) -> None:
        """Close."""
        self._client.close()

    def open(self) -> None:
        """Open, which reads everything."""
        from qdrant_client import QdrantClient

        self._client = QdrantClient(path=str(self._folder))

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return self._rows(vector, None)

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same in a group."""
        from qdrant_client.models import FieldCondition, Filter, MatchValue

        wanted = FieldCondition(key="group", match=MatchValue(value=group))
        return self._rows(vector, Filter(must=[wanted]))

    def close(self) -> None:
        """Close."""
        self._client.close()

    def _rows(self, vector: FloatArray, wanted: Any) -> IntArray:
        found = self._client.query_points(
            _TABLE, query=vector, limit=K, query_filter=wanted, with_payload=False
        )
        return np.array([point.id for point in found.points], dtype=np.int64)


PEERS: dict[str, type[System]] = {
    peer.name: peer for peer in (Hnswlib, Usearch, LanceDb, Chroma, MilvusLite, QdrantLocal)
}
SYSTEMS: dict[str, type[System]] = {OurMemory.name: OurMemory, ExactFaiss.name: ExactFaiss, **PEERS}
