"""docs/guides/training_data.md runs as it is printed."""

import re
from pathlib import Path


def test_the_examples_of_the_page_run():
    """Both Python blocks, one after the other, as a reader pastes them."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "training_data.md").read_text(
        encoding="utf-8"
    )
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/guides/training_data.md", "exec"), names)
    assert names["state"]["epoch"] == 1
    assert names["batch"]["sid"][0].tolist() == [4, 2, 0]
    assert names["trees"].num_boosted_rounds() == 5
