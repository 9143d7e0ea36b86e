"""What follows each layer in the symbolic graph of a network."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from ..support.loaded import loaded
from .copies import first_line, in_eval_mode, meta_copy

_ACTIVATIONS = tuple(
    getattr(nn, name) for name in nn.modules.activation.__all__ if name != "MultiheadAttention"
)  # fmt: skip

_FUNCTIONS = {activation.__name__.lower() for activation in _ACTIVATIONS}


def followers_of(
    model: nn.Module,
) -> tuple[dict[str, tuple[str | None, str | None]], str]:
    """By path, the normalisation and activation right after a module, as class names; and why
    they are not known, if the network cannot be traced."""
    graph, note = _trace(model)
    found = {}
    for node in graph.nodes if graph else ():
        if node.op == "call_module":
            found.setdefault(node.target, _after(model, node))
    return found, note


def _after(model: nn.Module, node: fx.Node) -> tuple[str | None, str | None]:
    norm = act = None
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module":
            module = model.get_submodule(node.target)
            name = type(module).__name__
            if isinstance(module, _NormBase) and norm is None and act is None:
                norm = name
                continue
            if isinstance(module, _ACTIVATIONS):
                act = name
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else node.target.__name__
            act = name if name.replace("_", "") in _FUNCTIONS else None
        break
    return norm, act


class _Tracer(fx.Tracer):
    def trace(self, root: nn.Module, concrete_args: None = None) -> fx.Graph:
        self._names = {parameter: name for name, parameter in root.named_parameters()}
        return super().trace(root, concrete_args)

    def getattr(self, attr: str, attr_val: object, parameter_proxy_cache: dict) -> object:
        if not isinstance(attr_val, nn.Parameter) or attr_val not in self._names:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        name = self._names[attr_val]  # subtle: PyTorch looks for it among all, every time
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _not_traced("modules")) or super().is_leaf_module(
            m, module_qualified_name
        )


def _not_traced(what: str) -> tuple:
    """Modules or functions that timm says are not to be traced."""
    return tuple(each for get in loaded(f"timm.layers:get_notrace_{what}") for each in get())


def _trace(model: nn.Module) -> tuple[fx.Graph | None, str]:
    """The symbolic graph of a network with its convolutions as leaves, or one line saying why
    it cannot be traced."""
    tracer = _Tracer(autowrap_functions=_not_traced("functions"))
    try:
        return tracer.trace(in_eval_mode(meta_copy(model))), ""
    except Exception as error:  # tracing runs the user's code
        return None, f"torch.fx cannot trace {type(model).__name__}: {first_line(error)}"
