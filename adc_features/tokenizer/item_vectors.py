"""The vector that UniSID gives an item beside its codes. Reads: RawItems, Generation. Writes: an
EmbeddingTable with one more modality.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.raw_items import RawItems
from adc_features.codes.spec import NO_CODE
from adc_features.errors import InputError
from adc_features.tokenizer.baselines import UnisidNetwork
from adc_features.tokenizer.encode import one_thread, read

MODALITY = "unisid"


def item_vectors(
    items: EmbeddingTable, generation: Generation, *, network: UnisidNetwork | None = None
) -> EmbeddingTable:
    """The same items with the EMB vector of a `unisid_e2e` generation as one more modality,
    `unisid`: for a ranker as it is, for another tokenizer as content.

    Parameters
    ----------
    items : EmbeddingTable
        N items with raw columns.
    generation : Generation
        Of `unisid_e2e`.
    network : UnisidNetwork, optional
        What `read` made of the generation, for who asks often.

    Returns
    -------
    EmbeddingTable
        With `vectors["unisid"]`, float32 [N, 128] of unit length; absent where an item has neither
        text nor image. Its column in Arrow is `vector_unisid`.

    Raises
    ------
    InputError
        The generation is of another tokenizer, or the items have no raw columns.

    Examples
    --------
    >>> with_vectors = item_vectors(items, generation)  # doctest: +SKIP
    >>> with_vectors.width("unisid")  # doctest: +SKIP
    128

    Source
    ------
    UniSID, arXiv 2602.10445: f_Emb, the vector of the same pass as the codes.
    """
    vectors, present = _read(items.raw, generation, network, names=items.item_ids)
    return replace(
        items,
        vectors={**items.vectors, MODALITY: vectors},
        present={**items.present, MODALITY: present},
    )


def raw_vectors(raw: RawItems, generation: Generation) -> pa.Array:
    """The EMB vectors of raw items as an Arrow column, fixed-size lists [N], null where absent.
    Raises InputError as `item_vectors`.
    """
    vectors, present = _read(raw, generation, None, names=None)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), vectors.shape[1], mask=pa.array(~present)
    )


def _read(
    raw: RawItems | None,
    generation: Generation,
    network: UnisidNetwork | None,
    *,
    names: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of unit length float32 [N, E], and which items have one."""
    model = network if network is not None else read(generation)
    if not isinstance(model, UnisidNetwork):
        raise InputError(
            f"generation {generation.id!r} is of tokenizer {generation.tokenizer!r}, which has no"
            " vector of an item; give one of 'unisid_e2e'"
        )
    with one_thread():
        sid, vectors = model.read(raw, names=names)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12), (sid != NO_CODE).any(1)
