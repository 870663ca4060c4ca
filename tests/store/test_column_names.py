"""Names of columns that leave together."""

import pytest

from adc_features.errors import InputError
from adc_features.store.column_names import refuse_shared


def test_a_name_has_one_owner():
    """Two owners of one name are both named; distinct names pass."""
    refuse_shared([("x", "view a"), ("y", "view b")], advice="rename one")
    with pytest.raises(
        InputError,
        match="view a and view b would share the column 'x', and one would be lost; rename one",
    ):
        refuse_shared([("x", "view a"), ("y", "view c"), ("x", "view b")], advice="rename one")
