"""Every architecture family of timm and torchvision: structure only, on the meta device."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.conv import _ConvNd

from convswap import find_sites
from convswap.inputs.networks import declared_preprocess
from convswap.network.cost import count

pytestmark = pytest.mark.slow

# family -> why `find_sites` cannot run it
EXCLUDED: dict[str, str] = {}

FAMILIES = {family: timm.list_models(module=family)[0] for family in timm.list_modules()
            if family != "timm_net" and timm.list_models(module=family)}  # fmt: skip


def test_the_table_is_not_empty():
    assert len(FAMILIES) > 80


def structure(build):
    """A network without storage, or a real one where building it or running it needs values."""
    try:
        with torch.device("meta"):
            model = build().eval()
        model(torch.zeros(1, *declared_preprocess(model).input_size, device="meta"))
        return model
    except Exception:
        return build().eval()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in EXCLUDED])
def test_sites_of_every_timm_family(family):
    model = structure(lambda: timm.create_model(FAMILIES[family]))
    size = declared_preprocess(model).input_size
    sites, _ = find_sites(model, size)
    layers = [m for m in model.modules() if isinstance(m, (_ConvNd, nn.Linear))]
    assert len(sites) == len(layers)
    assert all(site.reason or site.forms for site in sites)
    assert sum(site.cost.macs for site in sites) <= count(model, size).macs


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [n for n in torchvision.models.list_models(torchvision.models)])
def test_sites_of_every_torchvision_classifier(name):
    model = structure(lambda: torchvision.models.get_model(name, weights=None))
    sites, _ = find_sites(model.eval(), (3, 299 if name.startswith("inception") else 224, 224))
    assert all(site.reason or site.forms for site in sites)
