"""A resolved ranker as a Python file says what was resolved, whatever it holds."""

from dataclasses import replace

from declarations import KINDS, NAMES, RANKERS
from hypothesis import example, given
from hypothesis import strategies as st

from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Inputs, Ranker, Task
from adc_features.inputs.resolution import LeftOut, Resolution
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.source_text import declaration_text


def imported(text):
    """The one ranker of a file."""
    names = {}
    exec(compile(text, "written.py", "exec"), names)
    (ranker,) = (value for value in names.values() if isinstance(value, Ranker))
    return ranker


@example(Ranker(service='"\n', tasks=[Task("\x00")], name="class"), {"\\": d.flag()}, ["a\nb\x00"])
@given(RANKERS, st.dictionaries(NAMES, KINDS, max_size=4), st.lists(NAMES, max_size=2))
def test_what_is_written_declares_the_same(ranker, kinds, lost):
    """Names, options, times and tasks come back equal, whatever characters they hold."""
    made = tuple(
        ResolvedInput(name, replace(kind, source=kind.source or name), {}, "item", "type")
        for name, kind in kinds.items()
    )
    left = tuple(LeftOut(name, "Map", "item", f"because of {name}") for name in lost)
    again = imported(declaration_text(Resolution(ranker, made, left)))
    declared = again.declared.declared
    assert {n: replace(k, source=k.source or n) for n, k in declared.items()} == {
        i.name: i.kind for i in made
    }
    assert replace(again, inputs=Inputs()) == replace(ranker, inputs=Inputs())
