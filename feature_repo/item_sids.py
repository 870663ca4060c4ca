"""One feature view per live generation. Reads: data/live_generations.json, which publishing writes
last.
"""

from pathlib import Path

from adc_features.store.definitions import sid_views

globals().update({view.name: view for view in sid_views(Path(__file__).parent)})
