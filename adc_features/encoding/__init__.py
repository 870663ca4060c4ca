"""Encode a catalogue of any size: from Parquet to Parquet, in pieces, on one machine or many."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.encoding.files import encode_files
    from adc_features.encoding.output import EncodedItems, open_encoded
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {"EncodedItems": "output", "encode_files": "files", "open_encoded": "output"},
    )

__all__ = ["EncodedItems", "encode_files", "open_encoded"]
