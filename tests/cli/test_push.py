"""convswap push, to a hub that is not there, and to one that keeps what it is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import RepoUrl, constants
from outer import fail, succeed

from convswap.artifact import publishing


class Hub:
    """What is used of `HfApi`; keeps the bytes of every commit."""

    held: ClassVar[dict[str, dict[str, bytes]]] = {}

    def __init__(self, **library: str):
        assert library["library_name"] == "convswap"

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> RepoUrl:
        if "/" not in name:
            raise OSError(f"401 Client Error: no right to create {name}\nRequest ID: 1")
        self.held[name] = {"private": private}
        return RepoUrl(f"{constants.ENDPOINT}/{name}")

    def create_commit(self, name: str, operations: list, commit_message: str) -> None:
        for one in operations:
            self.held[name][one.path_in_repo] = Path(one.path_or_fileobj).read_bytes()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(publishing, "answers", lambda: True)
    monkeypatch.setattr(publishing, "HfApi", Hub)
    Hub.held.clear()
    return Hub.held


def test_what_convswap_wrote_is_put_there_and_nothing_else(here, hub):
    Path("art/secret.txt").write_text("mine")
    done = succeed("push", "art", "me/small", "--private")
    assert done.err == f"wrote {constants.ENDPOINT}/me/small\n"
    assert hub["me/small"].pop("private") is True
    assert sorted(hub["me/small"]) == ["README.md", "convswap.json", "model.safetensors"]
    for name, content in hub["me/small"].items():
        assert content == Path("art", name).read_bytes()


def test_a_refusal_of_the_hub_is_one_line(shared, hub):
    line = fail("push", "art", "small")
    assert "cannot put art on the hub as small: 401" in line
    assert "hf auth login" in line


def test_no_hub_is_said_at_once(shared, monkeypatch):
    monkeypatch.setattr(publishing, "answers", lambda: False)
    assert "no answer from https://" in fail("push", "art", "me/small")


def test_a_damaged_folder_is_not_put_there(here, hub):
    held = bytearray(Path("art/model.safetensors").read_bytes())
    held[-1] ^= 1
    Path("art/model.safetensors").write_bytes(held)
    assert "not what was written" in fail("push", "art", "me/small")
    assert hub == {}


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX")
def test_a_pipe_in_place_of_the_weights_is_not_waited_for(here, hub):
    Path("art/model.safetensors").unlink()
    os.mkfifo("art/model.safetensors")
    assert "not a regular file" in fail("push", "art", "me/small")
