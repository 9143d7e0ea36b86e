"""What keeps a state dict from being loaded into a network, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def misfits_of(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names that keep a state dict from being loaded, by what is wrong with them."""
    both = wanted.keys() & state.keys()
    found = {
        "missing": wanted.keys() - state.keys(),
        "unknown": state.keys() - wanted.keys(),
        "of another shape": {k for k in both if wanted[k].shape != state[k].shape},
        "of another type": {
            k for k in both if wanted[k].is_floating_point() != state[k].is_floating_point()
        },
    }
    return {what: sorted(names) for what, names in found.items() if names}


def what_to_do(
    misfits: Mapping[str, Sequence[str]], state: Mapping[str, Tensor], model: nn.Module
) -> str:
    """What to do about names that do not fit: the heads that torchvision's networks are trained
    with are an argument by themselves; one size that is another is that of classes or channels."""
    argument, value = "num_classes", "10"
    [what, names], *others = misfits.items()
    if not others and all(name.startswith(("aux", "Aux")) for name in names):
        argument = "aux_loss" if names[0].startswith("aux_classifier") else "aux_logits"
        value = str(what == "unknown").lower()
    elif not others and what == "of another shape":
        wanted = model.state_dict()
        differ = {
            (axis, size)
            for name in names
            for axis, size in enumerate(state[name].shape)
            if wanted[name].shape[axis : axis + 1] != (size,)
        }
        if len(differ) == 1:
            [(axis, size)] = differ
            if axis == 0 or type(model).__module__.startswith("timm."):
                argument, value = ("in_chans" if axis else "num_classes"), str(size)
    return (
        f"check the model's name and arguments (--model-arg {argument}={value}, in Python "
        f"kwargs=dict({argument}={value.capitalize()}))"
    )
