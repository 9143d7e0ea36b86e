"""PyTorch's exporter to ONNX makes its table of operators once, and not for every network anew,
which is a third of the time that it takes for a small one. Imported after the module named here."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
