"""Airflow: a monthly DAG that looks for drift, retrains and cleans up. It only calls `adc`; every
task may be repeated.

Airflow variables adc_run (the run directory that serves) and adc_data (its newest data).
"""

from datetime import UTC, datetime

from airflow import DAG
from airflow.operators.bash import BashOperator

RUN = "--run {{ var.value.adc_run }}"

with DAG(
    "adc_monthly",
    schedule="0 3 1 * *",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
) as dag:
    # 10: drift, which retraining answers
    monitor = BashOperator(task_id="monitor", bash_command=f"adc monitor {RUN} || [ $? -eq 10 ]")
    # 10: the champion stays
    retrain = BashOperator(
        task_id="retrain",
        bash_command=f"adc retrain {RUN} --data {{{{ var.value.adc_data }}}} || [ $? -eq 10 ]",
    )
    clean_up = BashOperator(task_id="clean_up", bash_command=f"adc gc {RUN}")
    monitor >> retrain >> clean_up
