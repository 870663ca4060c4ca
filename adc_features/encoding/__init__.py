"""Encode a catalogue of any size: from Parquet to Parquet, in pieces, on one machine or many."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.encoding.files import encode_files
    from adc_features.encoding.output import EncodedItems, open_encoded
    from adc_features.encoding.texts import embed_files
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "EncodedItems": "output",
            "embed_files": "texts",
            "encode_files": "files",
            "open_encoded": "output",
        },
    )

__all__ = ["EncodedItems", "embed_files", "encode_files", "open_encoded"]
