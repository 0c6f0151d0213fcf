"""Entries out of a memory and into one: as a Parquet file, or as a folder to look at."""

from vla_retrieval.transfer.folder import export_folder
from vla_retrieval.transfer.importing import begin, import_entries, open_source
from vla_retrieval.transfer.parquet import export_parquet
from vla_retrieval.transfer.records import Batch, Source

__all__ = [
    "Batch",
    "Source",
    "begin",
    "export_folder",
    "export_parquet",
    "import_entries",
    "open_source",
]
