"""Dagster: a monthly job that looks for drift, retrains and cleans up. It only calls `adc`; every
step may be repeated.

    dagster dev -f dagster_job.py

Environment variables: ADC_RUN, the run directory that serves, and ADC_DATA, its newest data.
"""

import os
import subprocess

from dagster import (
    Definitions,
    Failure,
    In,
    Nothing,
    OpExecutionContext,
    ScheduleDefinition,
    job,
    op,
)

PROMOTED, KEPT, DRIFT = 0, 10, 10


def adc(context: OpExecutionContext, *words: str, fine: tuple[int, ...] = (0,)) -> int:
    """Run a command; its output goes to the log, an exit code that is not fine fails the step."""
    done = subprocess.run(
        ["adc", *words, "--run", os.environ["ADC_RUN"]], capture_output=True, text=True, check=False
    )
    context.log.info(done.stdout + done.stderr)
    if done.returncode not in fine:
        raise Failure(f"adc {words[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.returncode


@op(ins={"after": In(Nothing)})
def retrain(context: OpExecutionContext) -> None:
    """A challenger, if there is reason to; promoted if it is better."""
    code = adc(context, "retrain", "--data", os.environ["ADC_DATA"], fine=(PROMOTED, KEPT))
    context.log.info("promoted" if code == PROMOTED else "the champion stays")


@op
def monitor(context: OpExecutionContext) -> None:
    """Reports drift of codes, which is no failure: the next step is the answer to it."""
    adc(
        context,
        "monitor",
        "--page",
        os.path.join(os.environ["ADC_RUN"], "monitor.html"),
        fine=(0, DRIFT),
    )


@op(ins={"after": In(Nothing)})
def clean_up(context: OpExecutionContext) -> None:
    """Rankers and generations that nothing promoted needs."""
    adc(context, "gc")


@job
def monthly() -> None:
    """Drift, then the next ranker, then what it made superfluous."""
    clean_up(after=retrain(after=monitor()))


definitions = Definitions(
    jobs=[monthly],
    schedules=[
        ScheduleDefinition(job=monthly, cron_schedule="0 3 1 * *", execution_timezone="UTC")
    ],
)
