"""Who this process is among those that fit together. Reads: the environment. Writes: Ranks."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """One process of several that share the rows of each batch.

    Parameters
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.

    Examples
    --------
    >>> [Ranks(rank, 3).share(7) for rank in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Is there no other process?"""
        return self.size == 1

    def share(self, rows: int) -> slice:
        """Which of a batch's rows are this process's: consecutive ones, no two shares differ by
        more than one row.
        """
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)


ALONE = Ranks()


def started_by_torchrun() -> bool:
    """Did torchrun start this process beside others?"""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
