"""Recipes: data in a closed vocabulary, and every problem at once."""

from __future__ import annotations

import pytest
from outer import frugal

from convswap import ConvswapError
from convswap.plans import Budget
from convswap.recipe import recipe

SHIPPED = sorted(recipe.folder().rglob("*.yaml"))
MINIMAL = """version: 1
model: {name: 'timm:resnet18', weights: net.safetensors}
data: {calibration: images, test: /absolute/images}
budget: {macs: 0.5}
"""


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def test_recipes_come_with_convswap():
    assert len(SHIPPED) >= 1
    assert recipe.shipped().keys() == {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_convswap_is_valid(path):
    loaded = recipe.load(path)
    assert loaded.budget != Budget()
    assert recipe.find(path.stem) == path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_says_in_its_header_what_it_does_and_how_to_run_it(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header[0]) > 20
    assert any(f"convswap run {path.stem}" in line for line in header)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_weights_that_a_recipe_names_are_there(path):
    weights = recipe.load(path).model.weights
    assert weights is None or (recipe.folder() / weights).is_file()


def test_defaults_are_filled_in(minimal):
    loaded = recipe.load(minimal)
    assert loaded.fit == "corrected"
    assert loaded.data.images == 1000
    assert loaded.distill is None
    assert (loaded.target.name, loaded.target.threads, loaded.target.batch) == ("eager", None, 1)
    assert loaded.model.random_weights is False


def test_a_recipe_may_ask_for_time_on_a_target(minimal):
    target = "target: {name: onnxruntime, threads: 4, batch: 16}\n"
    minimal.write_text(MINIMAL.replace("macs: 0.5", "latency: 0.6, params: 0.9") + target)
    loaded = recipe.load(minimal)
    assert loaded.budget == Budget(latency=0.6, params=0.9)
    assert loaded.target.model_dump() == {"name": "onnxruntime", "threads": 4, "batch": 16}


def test_paths_count_from_the_folder_of_the_recipe(minimal, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    loaded = recipe.load(minimal)
    assert loaded.model.weights == str(minimal.parent / "net.safetensors")
    assert loaded.data.calibration == str(minimal.parent / "images")
    assert loaded.data.test == "/absolute/images"


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_what_comes_along_or_is_made_up_is_no_path(name, minimal):
    minimal.write_text(MINIMAL.replace("calibration: images", f"calibration: {name}"))
    loaded = recipe.load(minimal)
    assert loaded.data.calibration == name
    (minimal.parent / "deep").mkdir()
    recipe.dump(loaded, minimal.parent / "deep" / "r.yaml")
    assert recipe.load(minimal.parent / "deep" / "r.yaml").data.calibration == name


def test_paths_in_overrides_count_from_the_working_directory(minimal):
    assert recipe.load(minimal, ["data.train=photos"]).data.train == "photos"


@pytest.mark.parametrize(("override", "value"), [
    ("budget.macs=0.3", lambda r: r.budget.macs == 0.3),
    ("seed=7", lambda r: r.seed == 7),
    ("distill.epochs=2", lambda r: r.distill.epochs == 2),
    ("data.input_size=[1, 32, 32]", lambda r: r.data.input_size == (1, 32, 32)),
    ("model.kwargs.num_classes=10", lambda r: r.model.kwargs == {"num_classes": 10}),
    ("fit=moments", lambda r: r.fit == "moments"),
    ("model.weights=a=b.pt", lambda r: r.model.weights == "a=b.pt"),
    ("model.weights=null", lambda r: r.model.weights is None),
    ("budget.latency=0.5", lambda r: r.budget == Budget(macs=0.5, latency=0.5)),
    ("target.name=openvino", lambda r: r.target.name == "openvino"),
    ("target.batch=8", lambda r: r.target.batch == 8),
    ("target.threads=2", lambda r: r.target.threads == 2),
])  # fmt: skip
def test_an_override_sets_one_entry(override, value, minimal):
    assert value(recipe.load(minimal, [override]))


def test_a_section_can_be_removed(minimal):
    assert recipe.load(minimal, ["distill.epochs=2", "distill=null"]).distill is None


@pytest.mark.parametrize("override", [
    "seed", "", "=3", "budget.macs.deep=1", "version.x=1", "budget.macs=[1", "seed=!!python/none",
    "seed=1" + ":30" * 300 + ".5", "budget.macs=true", "seed=false", "data.input_size=[3, true, 8]",
])  # fmt: skip
def test_an_override_that_makes_no_sense_is_refused(override, minimal):
    with pytest.raises(ConvswapError):
        recipe.load(minimal, [override])


@pytest.mark.parametrize(("change", "words"), [
    (("budget:", "bugdet:"), "unknown key bugdet (did you mean budget?)"),
    (("calibration", "calibratoin"), "unknown key data.calibratoin (did you mean calibration?)"),
    (("macs", "mac"), "unknown key budget.mac (did you mean macs?)"),
    (("0.5", "5"), "budget.macs"),
    (("0.5", "half"), "budget.macs"),
    (("macs", "latnecy"), "unknown key budget.latnecy (did you mean latency?)"),
    (("macs: 0.5", "latency: 0"), "budget.latency"),
    (("macs: 0.5", "latency: 1.5"), "budget.latency"),
    (("version: 1", "target: {name: gpu}\nversion: 1"),
     "target.name: must be 'eager', 'compile'"),
    (("version: 1", "target: {nmae: eager}\nversion: 1"),
     "unknown key target.nmae (did you mean name?)"),
    (("version: 1", "target: {batch: 0}\nversion: 1"), "target.batch"),
    (("version: 1", "target: {threads: -1}\nversion: 1"), "target.threads"),
    (("version: 1", "target: eager\nversion: 1"), "target"),
    (("version: 1", "targte: {}\nversion: 1"), "unknown key targte (did you mean target?)"),
    (("version: 1", "version: 2"), "version"),
    (("version: 1", ""), "version: is missing"),
    (("timm:resnet18", "timm:../x"), "model.name"),
    (("net.safetensors", "[1]"), "model.weights"),
    (("net.safetensors", '"w\\0"'), "model.weights: no path holds a nul"),
    (("images", '"i\\0"'), "data.calibration: no path holds a nul"),
    (("images", '""'), "data.calibration: names nothing"),
    (("calibration", "mean: [.nan, 0, 0], calibration"), "data.mean.0"),
    (("calibration", "std: [1, 1, 0], calibration"), "data.std.2"),
    (("version: 1", "target: {threads: 1000000}\nversion: 1"), "target.threads"),
    (("version: 1", "target: {batch: 99999999999}\nversion: 1"), "target.batch"),
    (("calibration", "batch_size: 99999999999999999999, calibration"), "data.batch_size"),
    (("calibration", "images: 1000000000000, calibration"), "data.images"),
    (("version: 1", "distill: {epochs: .inf}\nversion: 1"), "distill.epochs"),
    (("version: 1", "distill: {epochs: .nan}\nversion: 1"), "distill.epochs"),
    (("version: 1", "distill: {minutes: .inf}\nversion: 1"), "distill.minutes"),
    (("version: 1", "distill: {lr: .inf}\nversion: 1"), "distill.lr"),
    (("version: 1", "distill: {batch_size: 1.0e+20}\nversion: 1"), "distill.batch_size"),
    (("version: 1", "seed: 99999999999999999999\nversion: 1"), "seed"),
])  # fmt: skip
def test_a_problem_is_named_by_its_place(change, words, minimal):
    minimal.write_text(MINIMAL.replace(*change))
    with pytest.raises(ConvswapError) as caught:
        recipe.load(minimal)
    assert words in str(caught.value)
    assert str(minimal) in str(caught.value)


def test_all_problems_are_reported_together(minimal):
    minimal.write_text(MINIMAL.replace("macs: 0.5", "macs: 7").replace("weights", "wieghts")
                       + "sead: 3\ndistill: {epoch: 2}\n")  # fmt: skip
    with pytest.raises(ConvswapError) as caught:
        recipe.load(minimal)
    text = str(caught.value)
    for words in (
        "invalid recipe",
        "budget.macs",
        "model.wieghts (did you mean weights?)",
        "sead (did you mean seed?)",
        "distill.epoch (did you mean epochs?)",
    ):
        assert words in text


def test_unknown_keys_deep_in_values_are_explained_too(minimal):
    minimal.write_text(MINIMAL + "distill: {epochs: 1, batch_size: {deep: 1}}\n")
    with pytest.raises(ConvswapError, match=r"distill\.batch_size"):
        recipe.load(minimal)


@pytest.mark.parametrize("name", [
    "model.py:build", "os:system", "timm:hf-hub:a/b", "torchvision:a:b", "/tmp/artifact", "code",
    "timm:resnet18 ; rm", "timm:a\nb", "timm:resnet18\n",
])  # fmt: skip
def test_a_recipe_cannot_name_code(name, minimal):
    import yaml

    content = yaml.safe_load(MINIMAL)
    content["model"]["name"] = name
    minimal.write_text(yaml.safe_dump(content))
    with pytest.raises(ConvswapError, match=r"model\.name"):
        recipe.load(minimal)


@pytest.mark.parametrize("tag", [
    "!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system",
    "!!python/object/new:os.system [x]", "!custom 3",
])  # fmt: skip
def test_yaml_that_would_make_objects_is_refused(tag, minimal, monkeypatch):
    monkeypatch.chdir(minimal.parent)
    minimal.write_text(f"{MINIMAL}seed: {tag}\n")
    with pytest.raises(ConvswapError, match="cannot read recipe"):
        recipe.load(minimal)
    assert not (minimal.parent / "pwned").exists()


@pytest.mark.parametrize("content", ["# nothing\n", "- a\n", "hello", "3"])
def test_a_recipe_is_a_mapping(content, minimal):
    minimal.write_text(content)
    with pytest.raises(ConvswapError, match="mapping"):
        recipe.load(minimal)


@pytest.mark.parametrize("content", [
    b"a: [1", b"a: b: c", b"\xff\xfe\x00", b"\ta: 1", b"a: \x00", b"a: " + b"[" * 5000,
    b"a: " + b"[ {" * 5000, b"a: " + b"{b: " * 5000, b"- " * 5000, b"#" * (1 << 17), b"",
    b"a: 1\nb: 2\na: 3", b"a: {b: 1, 'b': 2}",
])  # fmt: skip
def test_a_file_that_is_no_yaml_is_refused_at_once(content, minimal):
    minimal.write_bytes(content)
    with pytest.raises(ConvswapError, match="cannot read recipe") as caught, frugal():
        recipe.load(minimal)
    assert "unicode string" not in str(caught.value)


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(ConvswapError, match=r"no recipe 'digts'.*digits"):
        recipe.find("digts")


def test_a_file_is_a_recipe_by_its_path(minimal):
    assert recipe.find(str(minimal)) == minimal


def test_a_loaded_recipe_does_not_change(minimal):
    with pytest.raises(ValueError, match="frozen"):
        recipe.load(minimal).seed = 3


def test_a_recipe_may_say_what_the_network_puts_out(minimal):
    assert recipe.load(minimal).output is None
    minimal.write_text(MINIMAL + "output: values\n")
    assert recipe.load(minimal).output == "values"
