"""Put an artifact on a model hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .. import __version__
from ..errors import ConvswapError
from ..inputs.hub import answers, endpoint
from ..inputs.names import is_library
from ..network.copies import first_line
from ..support.files import CONFIG
from .card import CARD
from .description import DESCRIPTION, WEIGHTS, header_of, read_description, weights_of
from .fit import check_digests
from .loading import load, read_weights


def push(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Put an artifact on the model hub, in one commit: its weights (safetensors), descriptions and
    card, and nothing else that is in the folder.

    The account is the one that `hf auth login` or the variable HF_TOKEN says.

    Args:
        name: of the repository, `user/name`; it is created unless there is one.
        private: create it for nobody else to see.

    Returns:
        Where it can be seen.

    Raises:
        ArtifactError: the folder is no artifact, or damaged.
        ConvswapError: it is no name, or the hub does not answer, or refuses.
    """
    folder = Path(folder)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConvswapError(f"not a name: {first_line(error)}", do="name it USER/NAME") from error
    description = read_description(folder)
    weights = weights_of(folder, description)
    header_of(weights)
    if is_library(description.record.base.name):
        load(folder)
    elif description.tensors:
        check_digests(read_weights(weights), description.tensors, str(weights))
    files = {WEIGHTS: weights} | {name: folder / name for name in (DESCRIPTION, CARD, CONFIG)}
    if not answers():
        raise ConvswapError(f"no answer from {endpoint()}", do="try again, or set HF_ENDPOINT")
    api = HfApi(library_name="convswap", library_version=__version__)
    try:
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(
            repository.repo_id,
            [CommitOperationAdd(as_, path) for as_, path in files.items() if path.is_file()],
            commit_message="Network converted by convswap",
        )
    except Exception as error:  # of whatever client this version uses: no account, no right, ...
        raise ConvswapError(
            f"cannot put {folder} on the hub as {name}: {first_line(error)}",
            do="log in with `hf auth login`, and name it USER/NAME",
        ) from error
    return str(repository)
