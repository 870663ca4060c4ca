"""Versions of a directory at one address: pushed whole, pulled whole, and gone back to."""

import json
import uuid

import pytest
from typer.testing import CliRunner

from adc_features.artifact import MANIFEST, read_manifest, seal, with_check
from adc_features.cli.main import application
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import numbered
from adc_features.stored_versions import pull, push
from adc_features.uris import open_uri


@pytest.fixture(params=["memory", "local"])
def address(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "there")
    return f"memory://{uuid.uuid4().hex}/codes"


def made(folder, text: str):
    """A sealed directory with one file in a folder."""
    place = folder / "publication"
    (place / "packed").mkdir(parents=True, exist_ok=True)
    (place / "packed" / "codes.sids").write_text(text)
    seal(place, {})
    return place


def held(directory) -> str:
    read_manifest(directory)
    return (directory / "packed" / "codes.sids").read_text()


def test_a_host_follows_what_is_pushed_and_goes_back(address, tmp_path):
    """The newest version by default, an older one by name; as many are kept as asked."""
    here = tmp_path / "host" / "codes"
    first = push(made(tmp_path, "one"), address)
    assert pull(address, here).changed
    assert held(here) == "one"
    assert not pull(address, here).changed
    second = push(made(tmp_path, "two"), address, keep=2)
    assert pull(address, here).version == second.version
    assert held(here) == "two"
    assert pull(address, here, version=first.version).versions == (second.version, first.version)
    assert held(here) == "one"
    third = push(made(tmp_path, "three"), address, keep=2)
    assert third.versions == (third.version, second.version)
    with pytest.raises(InputError, match=f"keeps no version '{first.version}'"):
        pull(address, here, version=first.version)
    assert not push(made(tmp_path, "three"), address, keep=2).changed
    filesystem, path = open_uri(f"{address}/versions")
    from pyarrow import fs

    there = filesystem.get_file_info(fs.FileSelector(path))
    assert {info.base_name for info in there} == {third.version, second.version}


def test_a_pull_that_fails_leaves_what_was_there(address, tmp_path):
    """A file that was altered on the way, or is missing: the host keeps its version, and a later
    pull is whole.
    """
    here = tmp_path / "host" / "codes"
    push(made(tmp_path, "one"), address)
    pull(address, here)
    second = push(made(tmp_path, "two"), address)
    filesystem, path = open_uri(f"{address}/versions/{second.version}/packed/codes.sids")
    with filesystem.open_output_stream(path) as file:
        file.write(b"2wo")
    with pytest.raises(ArtifactError, match="was altered"):
        pull(address, here)
    assert held(here) == "one"
    filesystem.delete_file(path)
    with pytest.raises(ArtifactError, match=r"lacks codes\.sids"):
        pull(address, here)
    assert held(here) == "one"
    assert [p.name for p in here.parent.iterdir()] == ["codes"]


@pytest.mark.parametrize("name", ["../../victim", "..", "", "/", "0123456789abcdeg", 7])
def test_a_list_of_versions_leads_nowhere_else(tmp_path, name):
    """A list that names another place than a version is refused before anything is deleted."""
    address, victim = tmp_path / "there", tmp_path / "victim"
    victim.mkdir()
    push(made(tmp_path, "one"), str(address))
    listed = with_check(numbered("stored_versions", {"versions": [name]}))
    (address / "versions.json").write_text(json.dumps(listed))
    for asked in (
        lambda: push(made(tmp_path, "two"), str(address), keep=1),
        lambda: pull(str(address), tmp_path / "here", version=str(name)),
    ):
        with pytest.raises(ArtifactError, match="lists no versions that can be read"):
            asked()
    assert victim.is_dir()
    assert len(list((address / "versions").iterdir())) == 1


def test_a_directory_that_was_altered_here_is_pulled_again(address, tmp_path):
    """Its manifest may say the right version all the same."""
    here = tmp_path / "host" / "codes"
    push(made(tmp_path, "one"), address)
    pull(address, here)
    (here / "packed" / "codes.sids").write_text("other")
    assert pull(address, here).changed
    assert held(here) == "one"


def test_only_complete_directories_are_pushed(address, tmp_path):
    """What is altered or has no manifest is refused before anything is written."""
    place = made(tmp_path, "one")
    with pytest.raises(InputError, match="keep is 0"):
        push(place, address, keep=0)
    (place / "packed" / "codes.sids").write_text("other")
    with pytest.raises(ArtifactError, match="was"):
        push(place, address)
    (place / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="no manifest"):
        push(place, address)
    with pytest.raises(ArtifactError, match="holds no versions"):
        pull(address, tmp_path / "host")


def test_the_commands_push_and_pull(address, tmp_path):
    """`adc push` and `adc pull` do the same, and say it as JSON."""
    run, app = CliRunner().invoke, application()
    source, here = made(tmp_path, "one"), tmp_path / "host" / "codes"
    pushed = run(app, ["push", "--from", str(source), "--to", address, "--json", "-"])
    assert pushed.exit_code == 0, pushed.output
    pulled = run(app, ["pull", "--from", address, "--to", str(here), "--json", "-"])
    assert json.loads(pulled.stdout)["version"] == json.loads(pushed.stdout)["version"]
    assert held(here) == "one"
    again = run(app, ["pull", "--from", address, "--to", str(here)])
    assert "there already" in again.stdout
