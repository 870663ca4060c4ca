"""What an installation costs: the size of `site-packages` by extra, and the CPU time of starting.

    python benchmarks/footprint.py --json build/footprint.json

Builds a wheel of this tree and installs it, with the versions of constraints.txt, into three fresh
environments: alone (`plugin`), with `[serve]` and with `[all]`. pip itself is not counted. Asks the
package index; needs about 4 GB of disk while it runs, under --work.

    environment.<plugin|serve|all>.bytes   sum of the sizes of the files in site-packages
    import_s.adc_features                  CPU seconds of `python -c "import adc_features"`
    import_s.help                          CPU seconds of `adc --help`

The start of the interpreter is part of both times; medians of several starts.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {"plugin": "", "serve": "[serve]", "all": "[all]"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--work", type=Path, help="a directory for the environments")
    parser.add_argument("--only", nargs="+", choices=EXTRAS, default=list(EXTRAS))
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    result: dict[str, dict] = {"environment": {}, "import_s": {}}
    with tempfile.TemporaryDirectory(dir=asked.work) as folder:
        wheel = built_wheel(Path(folder))
        for name in asked.only:
            place = Path(folder) / name
            installed(place, wheel, EXTRAS[name])
            result["environment"][name] = {"bytes": size(place)}
            print(name, f"{result['environment'][name]['bytes'] / 1e6:,.0f} MB", flush=True)
            starts = {
                "adc_features": [place / "bin/python", "-c", "import adc_features"],
                "help": [place / "bin/adc", "--help"],
            }
            if name == asked.only[-1]:
                result["import_s"] = {
                    what: median_cpu(command, asked.repeats) for what, command in starts.items()
                }
            shutil.rmtree(place)
    print(json.dumps(result["import_s"]))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def built_wheel(folder: Path) -> Path:
    """A wheel of this tree, built from a copy, so that no build directory is left here."""
    source = folder / "source"
    source.mkdir()
    for name in ("adc_features", "training"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source)
    return next(folder.glob("*.whl"))


def installed(place: Path, wheel: Path, extra: str) -> None:
    """A fresh environment that holds the wheel with this extra."""
    run(sys.executable, "-m", "venv", place)
    constraints = ROOT / "constraints.txt"
    run(
        place / "bin/pip",
        "install",
        "-q",
        "-c",
        constraints,
        f"adc-features{extra} @ {wheel.as_uri()}",
    )


def size(place: Path) -> int:
    """Bytes of the files of an environment's packages, pip left out."""
    return sum(
        path.lstat().st_size
        for packages in place.glob("lib/python*/site-packages")
        for path in packages.rglob("*")
        if path.is_file() and not path.relative_to(packages).parts[0].startswith("pip")
    )


def median_cpu(command: list, repeats: int) -> float:
    """CPU seconds of a command and its children, the first start (which compiles) left out."""
    spent = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*command, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(statistics.median(spent[1:]), 3)


def run(*command: object, **options: object) -> None:
    # our own sources must not be found in the place of what is installed
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd=tempfile.gettempdir(),
        env=environment,
        **options,
    )


if __name__ == "__main__":
    main()
