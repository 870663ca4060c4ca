"""Batches as torch tensors, from several worker processes, resumable. Reads: RowGroups. Writes:
dicts of tensors. Imports torch.
"""

from collections.abc import Iterator
from typing import Any

from adc_features.errors import InputError
from adc_features.extras import extra_modules
from adc_features.loader.batches import Columns, Order, array_batches
from adc_features.loader.row_groups import RowGroups

with extra_modules():
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Tensors = dict[str, torch.Tensor]


class TorchBatches(IterableDataset):
    """One epoch of one rank's batches, split over the DataLoader workers that iterate it.

    Parameters
    ----------
    source, columns, order
        As for `array_batches`.
    epoch : int
        Each epoch has its own order.
    skip : int
        Batches of the rank that were seen already.
    """

    def __init__(
        self, source: RowGroups, columns: Columns, order: Order, *, epoch: int = 0, skip: int = 0
    ) -> None:
        self.source, self.columns, self.order, self.epoch, self.skip = (
            source,
            columns,
            order,
            epoch,
            skip,
        )

    def __len__(self) -> int:
        return self.order.batches(int(self.source.rows.sum())) - self.skip

    def __iter__(self) -> Iterator[Tensors]:
        info = get_worker_info()
        workers, asked = (info.num_workers, info.id) if info else (1, 0)
        # DataLoader asks its workers in turn, and after a resume the turn is another's
        worker = (asked + self.skip) % workers
        seen = (self.skip - worker + workers - 1) // workers
        for arrays in array_batches(
            self.source,
            self.columns,
            self.order,
            epoch=self.epoch,
            worker=worker,
            workers=workers,
            skip=seen,
        ):
            yield {name: torch.from_numpy(values) for name, values in arrays.items()}


class TrainingLoader:
    """Batches as torch tensors; iterate once for each epoch, each epoch has its own order.

    `state_dict` may be taken after any batch: a loader of the same source, columns, order and
    workers that loads it goes on with the exact next batch, without reading the rows before its
    buffer.

    Parameters
    ----------
    source : RowGroups
        Where the rows come from.
    columns : Columns
        What a batch holds.
    order : Order
        Who sees which rows in which order.
    workers : int
        DataLoader processes; 0 reads in this one.
    **options
        Of `torch.utils.data.DataLoader`, such as `pin_memory`.

    Yields
    ------
    dict of str to torch.Tensor
        [B] or [B, L] each, rows of one batch in one order.

    Raises
    ------
    InputError
        A source without rows; all that `Columns.arrays` raises.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from adc_features.loader.row_groups import TableGroups
    >>> source = TableGroups(pa.table({"label": [0.0, 1.0, 2.0]}))
    >>> loader = TrainingLoader(source, Columns(scalars=("label",)), Order(batch_rows=2, seed=None))
    >>> [batch["label"].tolist() for batch in loader]
    [[0.0, 1.0], [2.0]]
    >>> loader.state_dict()["epoch"]
    1
    """

    def __init__(
        self, source: RowGroups, columns: Columns, order: Order, *, workers: int = 0, **options: Any
    ) -> None:
        if not source.rows.sum():
            raise InputError("the source has no rows; give at least one")
        self.source, self.columns, self.order, self.workers, self.options = (
            source,
            columns,
            order,
            workers,
            options,
        )
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return self.order.batches(int(self.source.rows.sum()))

    def __iter__(self) -> Iterator[Tensors]:
        rest = TorchBatches(
            self.source, self.columns, self.order, epoch=self.epoch, skip=self.batch
        )
        for tensors in DataLoader(rest, batch_size=None, num_workers=self.workers, **self.options):
            self.batch += 1
            yield tensors
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands.

        Returns
        -------
        dict
            Plain numbers, the same on every rank.
        """
        return {"epoch": self.epoch, "batch": self.batch, **self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Parameters
        ----------
        state : dict
            What `state_dict` returned.

        Raises
        ------
        InputError
            The order of rows would be another: other rows, seed, sizes, ranks or workers.
        """
        if other := {
            name: (state.get(name), value)
            for name, value in self._order().items()
            if state.get(name) != value
        }:
            raise InputError(
                f"the state was taken with another order (there, here): {other}; build the loader"
                " as it was then"
            )
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _order(self) -> dict[str, Any]:
        o = self.order
        kept = {
            "seed": o.seed,
            "batch_rows": o.batch_rows,
            "buffer_rows": o.buffer_rows,
            "ranks": o.ranks,
            "remainder": o.remainder,
            **({"cut": o.cut} if o.cut != "span" else {}),  # older states do not tell
        }
        return {**kept, "workers": max(self.workers, 1), "group_rows": self.source.rows.tolist()}
