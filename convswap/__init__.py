"""convswap: pretrained convolutional networks, with fitted separable convolutions inside.

The public names are those of `__init__.pyi`; each is imported when it is first used, so that
`import convswap` and the command line's help are quick. Where timm is used beside it, timm knows
the folders that convswap writes.
"""

import lazy_loader

from .support.after_import import after_import

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

after_import("timm", "convswap.artifact.timm_net")
