"""Where weights are fetched from: the model hub and others, as far as they can be reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

PATIENCE = 2.0  # seconds for a step of one answer; the hub's own client would try for a minute


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


def answers(url: str | None = None) -> bool:
    """Whether a server, by default the hub, answers at all, asked once."""
    found: list[int] = []

    def ask() -> None:
        try:
            found.append(
                get_session().head(url or constants.ENDPOINT, timeout=PATIENCE).status_code
            )
        except Exception:  # whatever the client of this version raises: no route, no name, too slow
            found.append(0)

    # subtle: no timeout of a client's goes for finding the address of a name, which can take long
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE)
    return 0 < sum(found) < 500  # above, a gateway answers in its place


def check_fetched(url: str, folder: str | Path) -> None:
    """Raise `ConnectionError` where a file is not in the folder it is kept in once fetched, and
    who has it does not answer."""
    address = urlsplit(url)
    if not (Path(folder) / Path(address.path).name).exists():
        site = f"{address.scheme}://{address.netloc}"
        if not answers(site):
            raise ConnectionError(f"not cached, and no answer from {site}")
