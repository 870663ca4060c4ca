"""Rows that a ranker learns from, encoded into files. Reads: JoinedFiles, a window of them. Writes:
RowFiles.

<directory of the joined rows>/learned/    all of them
<directory of the joined rows>/held/       the newest, which choose the rounds

Legend: n rows that are learned from.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.in_pieces import fit_in_pieces
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.joined_files import JoinedFiles
from training.ranker.labelled import Labelled
from training.ranker.learned import Counts, LearnedRows, summed_counts
from training.ranker.row_files import RowFiles


@dataclass(frozen=True)
class EncodedInFiles:
    """`EncodedRows` in files.

    Parameters
    ----------
    joined, rows : JoinedFiles, LearnedRows
        The rows.
    encoder : InputEncoder
        Fitted on them, see `inputs.in_pieces`.
    files : RowFiles
        All of them, encoded.
    order : ndarray
        int64 [n], which of them stands at each place in the files.
    counts : Counts
        Of the inputs.
    """

    joined: JoinedFiles
    rows: LearnedRows
    encoder: InputEncoder
    files: RowFiles
    order: np.ndarray
    counts: Counts

    @classmethod
    def of(cls, joined: JoinedFiles, rows: LearnedRows, *, seed: int = 0) -> "EncodedInFiles":
        """Two passes over the joined rows: the encoder is fitted, then they are encoded."""
        encoder = fit_in_pieces(
            joined.resolution.inputs, joined.pieces(rows.rows), weights=rows.weights, seed=seed
        )
        counts: list[Counts] = []
        order: list[np.ndarray] = []

        def encoded() -> Iterator[Encoded]:
            for places, parts in joined.pieces(rows.rows):
                piece = encoder.encode(parts, training=True, seed=seed)
                counts.append(encoder.counts(parts, piece))
                order.append(places)
                yield piece

        files = _written(joined, "learned", encoded(), encoder)
        return cls(joined, rows, encoder, files, np.concatenate(order), summed_counts(counts))

    def whole(self) -> Labelled:
        return _ordered(self.rows, self.order).labelled(self.files)

    def before(self, older: np.ndarray) -> Labelled:
        """All of them, of which the others are masked: they are not written once more."""
        mask = np.zeros_like(self.rows.mask)
        mask[:, older] = self.rows.mask[:, older]
        return _ordered(self.rows._replace(mask=mask), self.order).labelled(self.files)

    def held_out(self, newest: np.ndarray) -> Labelled:
        held, order = self.rows.take(newest), list[np.ndarray]()

        def encoded() -> Iterator[Encoded]:
            for places, parts in self.joined.pieces(held.rows):
                order.append(places)
                yield self.encoder.encode(parts)

        files = _written(self.joined, "held", encoded(), self.encoder)
        return _ordered(held, np.concatenate(order)).labelled(files)


def _ordered(rows: LearnedRows, order: np.ndarray) -> LearnedRows:
    """The rows in this order; without a copy where it is their own."""
    return rows if (np.diff(order) == 1).all() else rows.take(order)


def _written(
    joined: JoinedFiles, name: str, pieces: Iterator[Encoded], encoder: InputEncoder
) -> RowFiles:
    """Files of encoded rows; earlier ones of this name are removed first."""
    shape = NetworkShape.of(encoder.layout, joined.ranker, specs=encoder.specs)
    directory = joined.directory / name
    shutil.rmtree(directory, ignore_errors=True)
    return RowFiles.write(directory, pieces, shape, buffer_rows=joined.buffer_rows)
