"""Parts on Ray: each is a block of one row, whose task reads and writes it. Reads, writes: as the
work does; through Ray go only part numbers and counts of rows.

Every node has this library installed and reaches the same paths or object store as the driver.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adc_features.engines.parts import Outcome, Part, PartWork, outcome, rows_of, stopped
from adc_features.extras import require


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster: the running one, or that of `settings` (arguments of `ray.init`).

    cores: threads of torch in a task, as Ray gives each one core.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = "ray"
    cores: int | None = 1

    def run(
        self, work: PartWork, parts: Sequence[Part], *, told: Callable[[int], None]
    ) -> Mapping[int, int]:
        """Part number -> rows written. told: called with the rows of each part that is done.

        Raises the error of a task as its own class, ArtifactError when Ray gives up.
        """
        require("ray")
        import ray
        import ray.data

        if not ray.is_initialized():
            ray.init(**{"log_to_driver": False, **self.settings})
        numbers = [{"part": number} for number in range(len(parts))]
        work_on = _task(work, tuple(parts))
        answers = ray.data.from_items(numbers, override_num_blocks=len(parts)).map_batches(
            work_on, batch_size=1, batch_format="pyarrow", num_cpus=1
        )
        found = []
        try:
            for row in answers.iter_rows():
                found.append(Outcome(**row))
                told(found[-1].rows)
        except Exception as error:  # Ray wraps what a task raised in a class of its own
            raise stopped("Ray", error, work.into) from error
        return rows_of(found)


def _task(work: PartWork, parts: tuple[Part, ...]) -> Callable[[Any], Any]:
    def answered(batch: Any) -> Any:
        import pyarrow as pa

        done = [outcome(work, parts[number]) for number in batch.column("part").to_pylist()]
        return pa.Table.from_pylist([one._asdict() for one in done])

    return answered
