"""The model card: valid by the hub's own parser, true, and never in the place of a person's."""

from __future__ import annotations

import pytest
from helpers import tiny
from huggingface_hub import ModelCard
from outer import converted, narrow_resnet

from convswap import record_of, save
from convswap.artifact.card import card_of
from convswap.record import Base, remember


@pytest.fixture(scope="module")
def small():
    return converted(narrow_resnet(), (3, 32, 32), layer1__0__conv1=("channel", 3))


def card(network, **changes: object) -> ModelCard:
    record = record_of(network)
    record = record.model_copy(update={"base": record.base.model_copy(update=changes)})
    plan = record.plans[-1].model_copy(update={"output": "logits"})
    return ModelCard(card_of(record.model_copy(update={"plans": (plan,)}), 1_234_567))


def test_a_card_of_pretrained_weights_names_where_they_are_from(small):
    data = card(small, weights="pretrained").data
    assert data.library_name == "convswap"
    assert data.base_model == "timm/resnet18.a1_in1k"
    assert data.license == "apache-2.0"
    assert data.pipeline_tag == "image-classification"
    assert "convswap" in data.tags


@pytest.mark.parametrize("changes", [
    {"weights": "seed:0"}, {"weights": "mine.safetensors", "sha256": "0" * 64},
    {"name": "torchvision:resnet18", "weights": "pretrained"}, {"name": "code", "kwargs": {}},
    {"name": "timm:no_such_network", "weights": "pretrained"},
])  # fmt: skip
def test_a_card_claims_no_base_and_no_license_that_is_not_known(changes, small):
    data = card(small, **changes).data
    assert (data.base_model, data.license) == (None, None)


def test_a_card_of_random_weights_says_so(small):
    assert "random" in card(small, weights="seed:0").text
    assert "random" not in card(small, weights="pretrained").text
    assert "random" not in card(small, weights="seed:0", name="code").text  # may load its own


def test_a_network_that_does_not_classify_has_no_pipeline(small):
    plan = record_of(small).plans[-1].model_copy(update={"output": "values"})
    text = card_of(record_of(small).model_copy(update={"plans": (plan,)}), 1)
    assert ModelCard(text).data.pipeline_tag is None


def test_a_card_says_what_was_gained_and_how_to_load(small):
    text = card(small).text
    plan = record_of(small).plans[-1]
    assert f"{plan.dense.params / 1e3:#.3g}".rstrip(".") + " k" in text
    assert "1.23 MB" in text
    assert 'convswap.load("FOLDER")' in text
    own = card(small, name="code").text
    assert "model=build()" in own


def test_the_card_of_a_folder_follows_the_artifact(small, tmp_path):
    save(small, tmp_path / "art")
    first = (tmp_path / "art" / "README.md").read_text()
    other, size = tiny("residual")
    save(converted(other, size, first=("channel", 2)), tmp_path / "art", force=True)
    assert (tmp_path / "art" / "README.md").read_text() != first


@pytest.mark.parametrize("change", [
    lambda text: "my own words", lambda text: "", lambda text: text.replace("cheaper", "good"),
    lambda text: text + "and more\n", lambda text: "Before.\n" + text,
], ids=["another", "empty", "changed", "added to", "begun otherwise"])  # fmt: skip
def test_what_a_person_wrote_is_never_overwritten(change, small, tmp_path):
    path = save(small, tmp_path / "art") / "README.md"
    path.write_text(change(path.read_text()))
    before = path.read_text()
    save(small, tmp_path / "art", provenance={"note": "new"}, force=True)
    assert path.read_text() == before


@pytest.mark.parametrize("kind", ["link", "dead link", "folder", "no text"])
def test_what_is_no_plain_text_file_stays(kind, small, tmp_path):
    path = save(small, tmp_path / "art") / "README.md"
    text = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff\xfe")
    else:
        (tmp_path / "else").write_bytes(text)
        path.symlink_to(tmp_path / ("else" if kind == "link" else "nowhere"))
    save(small, tmp_path / "art", force=True)
    assert path.is_symlink() or path.is_dir() or path.read_bytes() == b"\xff\xfe"
    assert kind == "folder" or not (tmp_path / "art" / "README.md").is_dir()


def test_a_card_has_no_path_of_the_machine(small, tmp_path):
    weights = Base(name="timm:resnet18", weights=str(tmp_path / "w.safetensors"), sha256="0" * 64)
    save(remember(converted(narrow_resnet(), (3, 32, 32), layer1__0__conv1=("channel", 3)),
                  base=weights), tmp_path / "art")  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "art" / "README.md").read_text()


@pytest.mark.parametrize(("labels", "how"), [
    (False, "without labels"), (True, "and their labels"),
])  # fmt: skip
def test_the_card_of_a_distilled_network_says_so(labels, how, small, tmp_path):
    plain, recovered = tmp_path / "plain", tmp_path / "recovered"
    save(small, plain)
    made = {"distilled": {"images": 1200, "labels": labels}}
    save(small, recovered, provenance=made)
    assert "distilled" not in (plain / "README.md").read_text()
    said = f"distilled from the original on 1,200 images, {how}."
    assert said in (recovered / "README.md").read_text()
