"""convswap completion: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from . import console

EXAMPLE = "convswap completion bash"
Shell = Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL")]


def completion(shell: Shell, /) -> None:
    """Print the script by which a shell completes commands and options of convswap.

    For bash: `convswap completion bash >> ~/.bashrc`.
    """
    from . import app

    script = app.generate_completion(shell=shell)
    console.out.print(script, markup=False, highlight=False, soft_wrap=True)
