"""The hub is asked once; where it does not answer, what is cached is found and nothing else."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from convswap import ConvswapError, open_model
from convswap.inputs import hub as module
from convswap.inputs.hub import check_fetched, hub


@pytest.fixture(params=["no route", "a gateway", "too slow"])
def unreachable(request, monkeypatch):
    """No hub, and a list of how often it was asked."""
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            if request.param == "no route":
                raise OSError("no route")
            if request.param == "a gateway":
                return SimpleNamespace(status_code=503)
            time.sleep(2)  # whatever the timeout, as a look-up of its name may
            return SimpleNamespace(status_code=200)

    monkeypatch.setattr(module, "get_session", Session)
    monkeypatch.setattr(module, "PATIENCE", 0.5)
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


def test_weights_that_others_have_are_asked_for_once_and_found_where_they_are_kept(
    unreachable, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.hub.get_dir", lambda: tmp_path)
    with pytest.raises(
        ConvswapError, match=r"no answer from https://download\.pytorch\.org"
    ) as caught:
        open_model("torchvision:squeezenet1_1")
    assert "--weights" in str(caught.value)
    assert len(unreachable) == 1
    url = "https://download.pytorch.org/models/kept.pth?download=true"
    (tmp_path / "kept.pth").write_text("kept")
    check_fetched(url, tmp_path)
    assert len(unreachable) == 1
