"""Our Python files in a repository that `create_repository` did not write. Light: no feast.

Reads, writes: <repo>/adc_codes.py, the views of codes; <repo>/adc_code_services.py, services with
codes, which imports the user's own services and so is a file of its own.
"""

from pathlib import Path

from adc_features.artifact import write_atomically

CODE_VIEWS, CODE_SERVICES = "adc_codes.py", "adc_code_services.py"
CODE_FILES = (CODE_VIEWS, CODE_SERVICES)

_VIEWS = '''\
"""Semantic IDs as feature views, one for each generation in data/live_generations.json. Written by
`adc tokenize`.
"""

from pathlib import Path

from adc_features.store.definitions import sid_views

globals().update({view.name: view for view in sid_views(Path(__file__).parent)})
'''
_SERVICES = '''\
"""Feature services of this repository with semantic IDs added. Written by `adc tokenize`; delete
the lines of a service that is not wanted any more.
"""

from pathlib import Path

from adc_features.store.definitions import with_codes

REPO = Path(__file__).parent
'''
_SERVICE = """
from {module} import {variable}

{variable}_{generation} = with_codes({variable}, repo=REPO, generation="{generation}")
"""


def declare_code_views(repo: Path) -> str:
    """Let `feast apply` declare the views of codes; the file that does. One that exists is kept."""
    if (Path(repo) / "item_sids.py").is_file():  # of create_repository
        return "item_sids.py"
    _write(Path(repo) / CODE_VIEWS, _VIEWS)
    return CODE_VIEWS


def declare_code_service(repo: Path, module: str, variable: str, generation: str) -> str:
    """Let `feast apply` declare a service with the codes of a generation; the file that does.

    module, variable: where the repository declares the service.
    """
    path = Path(repo) / CODE_SERVICES
    text = path.read_text(encoding="utf-8") if path.is_file() else _SERVICES
    if f"\n{variable}_{generation} = with_codes(" not in text:
        text += _SERVICE.format(module=module, variable=variable, generation=generation)
    _write(path, text)
    return CODE_SERVICES


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
