"""A Feast offline store whose rows Spark moves and whose joins are ours. Reads: Spark's sources,
Parquet. Writes: joined features.

    offline_store:
      type: adc_features.store.spark.SparkAsofOfflineStore

Its names are imported when they are first used: workers import this package too, and need neither
feast nor the store.
"""

from adc_features.extras import names_of

__all__ = ["SparkAsofOfflineStore", "SparkAsofOfflineStoreConfig"]

__getattr__ = names_of(
    __name__,
    {"SparkAsofOfflineStore": "spark_store", "SparkAsofOfflineStoreConfig": "spark_store"},
)
