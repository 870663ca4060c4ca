"""The settings file of `adc retrain` and `adc monitor`: what it may say, and what wins."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.codes.drift import DriftThresholds
from adc_features.errors import InputError
from training.deployment.settings import (
    RetrainSettings,
    drift_thresholds,
    read_settings,
    retrain_settings,
    settings_text,
)


def written(place: Path, text: str) -> Path:
    path = place / "settings.toml"
    path.write_text(text)
    return path


def test_an_option_goes_before_the_file_and_the_file_before_the_defaults(tmp_path):
    """What neither says keeps its default; a whole number may stand for a share."""
    path = written(
        tmp_path,
        "[retrain]\nmax_uncoded = 0.5\nmin_rows = 20\nmax_churn = 1\n[drift]\nusage = 0.3\n",
    )
    found = retrain_settings(path, {"min_rows": 30, "max_loss": None})
    assert found == RetrainSettings(max_uncoded=0.5, min_rows=30, max_churn=1.0)
    assert drift_thresholds(path, {"coverage": 0.1}) == DriftThresholds(usage=0.3, coverage=0.1)
    assert retrain_settings(None, {}) == RetrainSettings()


def test_settings_that_are_printed_are_read_again(tmp_path):
    """Every setting of both tables comes back as it was."""
    held = {"retrain": RetrainSettings(min_gain=-0.5), "drift": DriftThresholds(entropy=0.7)}
    path = written(tmp_path, settings_text(**held))
    assert read_settings(path) == {name: asdict(value) for name, value in held.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[retrain]\nmin_gian = 0.1", "has no setting 'min_gian'; did you mean 'min_gain'"),
        ("[retrain]\nzzz = 1", "has no setting 'zzz'; there are window_days, min_rows"),
        ("[retrian]\nmin_gain = 1", r"'retrian' at its top; expected the tables \[retrain\]"),
        ("min_gain = 1", "'min_gain' at its top"),
        ("retrain = 1", "'retrain' at its top"),
        ("[retrain]\nmin_rows = 2.5", "min_rows in .retrain. is 2.5; expected a whole number"),
        ("[retrain]\nmin_rows = true", "is True; expected a whole number"),
        ("[retrain]\nmin_gain = '0.1'", "is '0.1'; expected a number"),
        ("[retrain]\nmin_gain = nan", "settings.toml: min_gain is nan; expected a finite"),
        ("[retrain]\nmax_churn = 1.5", "settings.toml: max_churn is 1.5; expected 0 to 1"),
        ("[retrain]\nmax_loss = -1", "max_loss is -1.0; expected 0 or more"),
        ("[retrain]\nevery_days = 0", "every_days is 0; expected at least 1"),
        ("[retrain", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path, text, message):
    """The file, the table and the setting are named, with what was expected."""
    with pytest.raises(InputError, match=message):
        retrain_settings(written(tmp_path, text), {})


def test_drift_limits_below_zero_and_a_missing_file_are_refused(tmp_path):
    """Each in words."""
    with pytest.raises(InputError, match=r"usage is -1\.0; expected 0 or more"):
        drift_thresholds(written(tmp_path, "[drift]\nusage = -1"), {})
    with pytest.raises(InputError, match=r"none\.toml cannot be read"):
        drift_thresholds(tmp_path / "none.toml", {})


def test_the_command_shows_the_settings_it_would_use(tmp_path):
    """`--show-settings` prints a settings file with the options in it, and trains nothing; a file
    that is wrong exits with the code of unusable data.
    """
    path = written(tmp_path, "[retrain]\nmax_uncoded = 0.5\n")
    words = ["retrain", "--run", str(tmp_path), "--settings", str(path)]
    shown = CliRunner().invoke(application(), [*words, "--min-rows", "20", "--show-settings"])
    assert shown.exit_code == 0, shown.output
    kept = written(tmp_path, shown.stdout)
    assert retrain_settings(kept, {}) == RetrainSettings(max_uncoded=0.5, min_rows=20)
    path.write_text("[retrain]\nmax_uncoded = 2\n")
    refused = CliRunner().invoke(application(), words)
    assert refused.exit_code == 20
    assert "max_uncoded is 2.0; expected 0 to 1" in refused.output


def test_the_page_lists_every_setting_with_its_default():
    """docs/reference/configuration.md has one row a setting, and no setting that does not exist."""
    page = (Path(__file__).parents[3] / "docs" / "reference" / "configuration.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([-\d.]+) \|", page, flags=re.M)
    found = {name: float(value) for names, value in rows for name in re.findall(r"\w+", names)}
    assert found == {**asdict(RetrainSettings()), **asdict(DriftThresholds())}
