"""What every work from files to files shares: parts that are kept, rows that are counted. Reads,
writes: the output's folder.

The plan says what is made of what; parts that are finished under the same plan are kept, so that
the same command goes on where it stopped.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adc_features.artifact import MANIFEST
from adc_features.engines import Engine
from adc_features.engines.parts import PartWork, Source
from adc_features.engines.places import Place
from adc_features.errors import ArtifactError, InputError
from adc_features.input_files import unchanged
from adc_features.one_writer import CLAIMS

PARTIAL, PLAN = "_partial", "plan.json"
Progress = Callable[[str, int, int], None]


def finished(target: Place, made_of: Mapping[str, Any]) -> bool:
    """Whether the same was made there before. Raises InputError where something else stands."""
    there = target.json(MANIFEST)
    if there is None:
        others = [file for file in target.listed(recursive=True) if f"/{CLAIMS}/" not in file.path]
        if target.json(f"{PARTIAL}/{PLAN}") is None and others:
            raise InputError(
                f"{target.uri} holds files that this command did not write; name a fresh folder,"
                " --out"
            )
        return False
    if there.get("made_of") != _as_json(made_of):
        raise InputError(
            f"{target.uri} was made of other items, or by another generation, snapshot or model;"
            " name a fresh folder, --out, or delete this one"
        )
    return True


def prepare(
    target: Place,
    plan: Mapping[str, Any],
    folders: Sequence[str],
    put: Callable[[], None] = lambda: None,
) -> None:
    """Keep the parts that were finished under this plan; else begin anew: empty these folders, and
    put what workers read.
    """
    name = f"{PARTIAL}/{PLAN}"
    if target.json(name) == _as_json(plan):
        return
    for folder in (PARTIAL, *folders):
        target.delete(folder)
    put()
    # last: parts are kept only beside what they were made with
    target.write(name, (json.dumps(plan, indent=2) + "\n").encode())


def run_parts(
    engine: Engine, source: Source, work: PartWork, label: str, progress: Progress | None
) -> None:
    """Let the engine write every part. Raises ArtifactError when rows are lost, or when a file of
    the source changed since it was opened.
    """
    done = 0

    def told(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(label, done, source.rows)

    with unchanged([source.inputs]):
        written = engine.run(work, source.parts, told=told)
    wrong = [p.number for p in source.parts if written.get(p.number) != p.rows]
    if wrong:
        raise ArtifactError(
            f"{len(wrong)} of {len(source.parts)} parts came back with other rows than they have"
            f" items (first part {wrong[0]}); run the same command again"
        )


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
