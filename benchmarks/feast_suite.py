"""Do Feast's own universal tests pass against our stores? Reads: a checkout of Feast's tests.
Writes: pytest's report and a JSON document.

The checkout must lack sdk/python/feast, so that the installed Feast is what runs;
docs/evidence/benchmarks.md tells how to make it and what to install. Tests of online stores choose
by name; so ours runs once as `redis` and once as `sqlite`.

    python benchmarks/feast_suite.py offline --feast-source ../feast --json -
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from _measure import write_report

HERE = Path(__file__).resolve().parent
RUNS = {
    "offline": {
        None: [
            f"tests/integration/offline_store/{name}.py"
            for name in (
                "test_universal_historical_retrieval",
                "test_universal_types",
                "test_universal_materialization",
                "test_persist",
                "test_offline_write",
                "test_push_features_to_offline_store",
                "test_feature_logging",
                "test_non_entity_mode",
            )
        ]
    },
    "online": {
        "redis": [
            f"tests/integration/{name}.py"
            for name in (
                "online_store/test_universal_online",
                "online_store/test_universal_e2e",
                "online_store/test_push_features_to_online_store",
                "materialization/test_universal_materialization",
            )
        ],
        "sqlite": [
            f"tests/integration/{name}.py"
            for name in (
                "online_store/test_universal_online",
                "online_store/test_universal_online_types",
                "registration/test_versioning",
            )
        ],
    },
}
"""Half -> the name that our online store goes by (None: Feast's SQLite store is used) -> test
modules.
"""


def run(
    source: Path, modules: list[str], select: str | None, *, alias: str | None
) -> dict[str, str]:
    """Test name -> passed, failed, error or skipped, each with the first line of why."""
    with tempfile.TemporaryDirectory(prefix="feast-suite-") as scratch:
        report = Path(scratch) / "report.xml"
        environment = os.environ | {
            "FEAST_IS_LOCAL_TEST": "True",
            "IS_TEST": "True",
            "FEAST_USAGE": "False",
            "FULL_REPO_CONFIGS_MODULE": "adc_repo_configuration",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "TMPDIR": scratch,
            "ADC_ONLINE_ALIAS": alias or "",
        }
        options = [
            "--integration",
            "-q",
            "-W",
            "ignore",
            "-rfEs",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=--tb=short --strict-markers",
        ]
        command = [
            sys.executable,
            "-m",
            "pytest",
            *options,
            f"--junitxml={report}",
            *modules,
            *(["-k", select] if select else []),
        ]
        subprocess.run(
            command, cwd=source / "sdk/python", env=environment, check=False, stdout=sys.stderr
        )
        if not report.is_file():
            raise SystemExit(
                f"pytest wrote no report; is {source} a checkout of Feast's tests, and are its test"
                " packages installed? See docs/evidence/benchmarks.md"
            )
        return {
            f"{case.get('classname')}::{case.get('name')}": outcome(case)
            for case in ElementTree.parse(report).iter("testcase")
        }


def outcome(case: ElementTree.Element) -> str:
    for kind in ("failure", "error", "skipped"):
        if (found := case.find(kind)) is not None:
            return (
                f"{kind}:"
                f" {(found.get('message') or '').splitlines()[0] if found.get('message') else ''}"
            )
    return "passed"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("half", choices=sorted(RUNS))
    parser.add_argument(
        "--feast-source",
        type=Path,
        required=True,
        help="a checkout of feast-dev/feast with sdk/python/tests, without sdk/python/feast",
    )
    parser.add_argument("-k", dest="select", help="only tests that match, as pytest's -k")
    parser.add_argument("--json", default="-")
    args = parser.parse_args()
    outcomes = {
        f"{alias} {name}" if alias else name: result
        for alias, modules in RUNS[args.half].items()
        for name, result in run(
            args.feast_source.resolve(), modules, args.select, alias=alias
        ).items()
    }
    kinds = [outcome.split(":")[0] for outcome in outcomes.values()]
    counts = {kind: kinds.count(kind) for kind in ("passed", "failure", "error", "skipped")}
    not_passed = {name: outcome for name, outcome in outcomes.items() if outcome != "passed"}
    write_report(
        args.json, systems={}, ratios={}, suite=args.half, counts=counts, not_passed=not_passed
    )
    sys.exit(bool(counts["failure"] or counts["error"]))


if __name__ == "__main__":
    main()
