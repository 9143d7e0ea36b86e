"""The hub is asked once; where it does not answer, what is cached is found and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from convswap.inputs import hub as module
from convswap.inputs.hub import hub


@pytest.fixture(params=["no route", "a gateway"])
def unreachable(request, monkeypatch):
    """No hub, and a list of how often it was asked."""
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            if request.param == "no route":
                raise OSError("no route")
            return SimpleNamespace(status_code=503)

    monkeypatch.setattr(module, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return asked


def test_a_hub_that_does_not_answer_is_asked_once_and_named(unreachable, tmp_path):
    with pytest.raises(ConnectionError, match="no answer from https://") as caught, hub():
        hf_hub_download("timm/nothing", "model.safetensors", cache_dir=tmp_path)
    assert isinstance(caught.value.__cause__, LocalEntryNotFoundError)
    assert len(unreachable) == 1


def test_what_is_cached_is_found_without_the_hub(unreachable, tmp_path):
    snapshot = tmp_path / "models--timm--kept" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_text("kept")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    with hub():
        found = hf_hub_download("timm/kept", "model.safetensors", cache_dir=tmp_path)
    assert found == str(snapshot / "model.safetensors")


def test_other_failures_are_told_as_they_are_and_the_setting_is_restored(unreachable):
    with pytest.raises(ValueError, match="a bug"), hub():
        raise ValueError("a bug")
    assert constants.HF_HUB_OFFLINE is False


def test_someone_who_works_offline_is_taken_at_their_word(unreachable, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub():
        assert constants.HF_HUB_OFFLINE is True
    assert unreachable == []
    assert constants.HF_HUB_OFFLINE is True
