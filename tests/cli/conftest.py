"""A user's folder: made once, shared by the commands that leave it as it is, copied for others."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from outer import (
    CLASSES,
    RECIPE,
    tree,
    truncate,
    write_artifact,
    write_images,
    write_tar,
    write_user_files,
)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    folder = write_user_files(tmp_path_factory.mktemp("user"))
    write_artifact(folder)
    write_images(folder / "flat", classes=(), each=4)
    write_images(folder / "gray", mode="L", each=2)
    write_tar(folder / "data.tar", folder / "data")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "tiny.yaml").write_text(RECIPE)
    plan = json.loads((folder / "art" / "convswap.json").read_text())["record"]["plans"][0]
    (folder / "plan.json").write_text(json.dumps(plan))
    for name, spoiled in {"few": 2, "many": 3}.items():  # of 40: at most 5 % may fail
        write_images(folder / name)
        for index in range(spoiled):
            truncate(folder / name / CLASSES[index] / "00.png")
    return folder


@pytest.fixture
def shared(template, monkeypatch):
    """The folder itself, as the working directory: a command that changes anything fails."""
    monkeypatch.chdir(template)
    before = tree(template)
    yield template
    assert tree(template) == before


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A copy of one's own, as the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def user_cache(tmp_path_factory):
    """Layer times are measured once for all the tests that ask for them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def timed(here, user_cache, monkeypatch):
    """A user's folder, and what a plan by time needs: its body is a large layer, which has many
    replacements several times as fast."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    before = torch.get_num_threads()
    yield here
    torch.set_num_threads(before)
