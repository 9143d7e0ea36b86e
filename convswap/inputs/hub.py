"""The model hub, where it can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

PATIENCE = 3.0  # seconds for one answer; the hub's own client would try for more than a minute


@contextmanager
def hub() -> Iterator[None]:
    """Downloads inside end at once where the hub does not answer; what is cached is found.

    Raises:
        ConnectionError: something was wanted that is not cached, and the hub does not answer.
    """
    if constants.HF_HUB_OFFLINE or answers():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ConnectionError(f"not cached, and no answer from {constants.ENDPOINT}") from error
    finally:
        constants.HF_HUB_OFFLINE = False


def endpoint() -> str:
    """Where the hub is."""
    return constants.ENDPOINT


def answers() -> bool:
    """Whether the hub answers at all, asked once."""
    try:
        status = get_session().head(constants.ENDPOINT, timeout=PATIENCE).status_code
    except Exception:  # whatever the client of this version raises: no route, no name, too slow
        return False
    return status < 500  # above, a gateway answers in its place
