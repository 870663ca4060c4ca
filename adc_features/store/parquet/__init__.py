"""Views' Parquet files: found, read in the declared types, added to. Reads, writes: Parquet; no
feast here.
"""

from adc_features.store.parquet.writer import write_parquet

__all__ = ["write_parquet"]
