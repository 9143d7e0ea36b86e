"""What each layer and each of its replacements takes on a target, measured once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import TargetError
from ..forms import Kernel, Rank
from ..network.sites import Site
from ..runtimes import Runner, Target, running
from ..support.files import new_file, read_text, user_cache
from ..support.plain import read_json
from ..support.progress import Progress, silent
from .microbench import Signature, signatures
from .turns import fastest, sensible, take_turns

SECONDS_EACH = 0.3  # at most, to time a layer or a replacement
ROUNDS = 7  # at least
MULTIPLES = 2, 4, 8, 16  # of ranks, tried
PLATEAU = 0.95  # times this near are one
PROBE = Signature(Kernel(128, 128, 3, 3), (1, 1), (1, 1), (1, 1), (28, 28), False, True, True)
MOST_BYTES = 1 << 26
METHOD = 1  # raised when something else is measured: times of before are then not used

Way = tuple[str | None, Rank | None]
"""Form and rank; twice None is the dense layer."""
DENSE: Way = (None, None)


class LatencyTable:
    """Milliseconds of sites and of their replacements, each in a short row of layers.

    Equal layers share one measurement. Times are kept in a file per target, settings and
    machine; where that cannot be written, they live as long as the table.

    Attributes:
        problems: one line for each replacement the target could not run, and so has no time.
    """

    def __init__(
        self, target: Target, batch: int = 1, cache: Path | Literal["user"] | None = "user"
    ):
        """
        Args:
            target: where times are wanted; its `layer_target` is what is measured.
            batch: images per forward pass.
            cache: folder of measured times; default: the user's own. None keeps nothing.
        """
        self.target, self.batch = target.layer_target, batch
        self.problems: list[str] = []
        settings = {"batch": str(batch), "method": str(METHOD)}
        self._fingerprint = self.target.fingerprint() | settings
        identity = json.dumps(self._fingerprint, sort_keys=True).encode()
        name = f"{hashlib.sha256(identity).hexdigest()[:16]}.json"
        folder = user_cache("latency") if cache == "user" else cache
        self._file = folder and folder / name
        self._ms = self._read()

    def measure(
        self,
        wanted: Sequence[tuple[Site, str | None, Rank | None]],
        progress: Progress = silent,
    ) -> None:
        """Measure what is not known yet; a layer and all ranks of a form of it take turns.

        Each takes up to `SECONDS_EACH`; less once every median of those that take turns is
        certain to 2 %, more if that is too short for seven rounds.

        Args:
            wanted: sites with form and rank; None twice is the dense layer, which always
                is measured along.

        Raises:
            TargetError: the target cannot run a dense layer, or gives no sensible time for it.
            RankError: a form or rank does not fit its site.
        """
        missing: dict[tuple[Signature, str | None], dict[Way, None]] = {}
        names: dict[Signature, str] = {}
        for site, *way in wanted:
            for signature in signatures(site):
                names.setdefault(signature, site.path)
                if _key(signature, tuple(way)) not in self._ms:
                    missing.setdefault((signature, way[0]), {})[tuple(way)] = None
        total, done = sum(map(len, missing.values())), 0
        for (signature, form), ways in sorted(missing.items(), key=lambda m: m[0][1] is None):
            if form is not None or _key(signature, DENSE) not in self._ms:  # measured along
                self._measure(names[signature], signature, [DENSE, *ways])
                self._write()
            done += len(ways)
            progress("latency", done, total)

    def multiple(self) -> int:
        """The multiple that ranks had best be of on the target: 1, 2, 4, 8 or 16.

        Vector units take channels in blocks, and a part of a block takes the time of a whole
        one. Measured on a `bottleneck` of 128 channels: the most that can be added to a rank
        of 32 in about the time of adding one.
        """
        ways = {step: ("bottleneck", 32 + step) for step in (1, *MULTIPLES)}
        if any(_key(PROBE, way) not in self._ms for way in ways.values()):
            self._measure("of 128 channels", PROBE, [DENSE, *ways.values()])
            self._write()
        times = {step: self._ms.get(_key(PROBE, way)) for step, way in ways.items()}
        if None in times.values():
            return 1
        return max([1, *(step for step in MULTIPLES if PLATEAU * times[step] <= times[1])])

    def knows(self, site: Site, form: str | None = None, rank: Rank | None = None) -> bool:
        """Whether the time has been measured."""
        return all(_key(each, (form, rank)) in self._ms for each in signatures(site))

    def ms(self, site: Site, form: str | None = None, rank: Rank | None = None) -> float:
        """Milliseconds of all calls of a site, as it is or replaced, at the table's batch size.

        Raises:
            TargetError: they have not been measured, or could not be.
        """
        try:
            return sum(self._ms[_key(each, (form, rank))] for each in signatures(site))
        except KeyError:
            what = _named(site.path, (form, rank))
            raise TargetError(f"target {self.target.name} has no time of {what}") from None

    def _measure(self, name: str, signature: Signature, ways: Sequence[Way]) -> None:
        images = signature.inputs(self.batch)
        runners: dict[tuple[Way, str], Runner] = {}
        for way in dict.fromkeys(ways):
            module = signature.network(*way)
            try:
                with running(self.target, _named(name, way)):
                    variants = self.target.variants(module, images)
            except TargetError as error:
                self._refuse(way, error)
            else:
                runners |= {(way, layout): runner for layout, runner in variants.items()}
        with running(self.target, _named(name, DENSE)):
            times = fastest(take_turns(runners, SECONDS_EACH * len(ways), rounds=ROUNDS))
        for way, timing in times.items():
            if not sensible(timing.ms):
                what = f"a time of {timing.ms} ms for {_named(name, way)}"
                self._refuse(way, TargetError(f"target {self.target.name} has {what}"))
                continue
            # What is known of the dense layer stays: the machine may be slower today.
            known = self._ms.setdefault(_key(signature, DENSE), times[DENSE].ms)
            self._ms[_key(signature, way)] = timing.ms * known / times[DENSE].ms

    def _refuse(self, way: Way, error: TargetError) -> None:
        if way == DENSE:
            raise error
        self.problems.append(str(error))

    def _read(self) -> dict[str, float]:
        """Times in the file; none if there is none, or it is damaged."""
        try:
            text = read_text(self._file, MOST_BYTES) if self._file else "{}"
            document = read_json(text, MOST_BYTES)
            if document["fingerprint"] == self._fingerprint:
                return {key: ms for key, ms in document["ms"].items() if sensible(ms)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass
        return {}

    def _write(self) -> None:
        if not self._file:
            return
        self._ms = self._read() | self._ms  # another process may have measured, too
        document = {"fingerprint": self._fingerprint, "ms": self._ms}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(self._file) as temporary:
                temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            note = f"measured times are not kept: {error.strerror}"
            if note not in self.problems:
                self.problems.append(note)


def _key(signature: Signature, way: Way) -> str:
    form, rank = way
    return f"{signature}: {'dense' if form is None else f'{form} {rank}'}"


def _named(name: str, way: Way) -> str:
    form, rank = way
    return f"layer {name}" if form is None else f"layer {name} as {form} {rank}"
