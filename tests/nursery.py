"""Processes of their own without the seconds that imports take: forked from one that has made
them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from outer import Finished

SERVER = """
import json, os, sys, traceback
import timm, torch._dynamo, torchvision
import convswap.cli, helpers, outer
ended = {}
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        child, how = asked["wait"]
        if child not in ended and (found := os.waitpid(child, how)) != (0, 0):
            ended[child] = os.waitstatus_to_exitcode(found[1])
        print(ended.get(child, "running"), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        for name, number in ((os.devnull, 0), (asked["out"], 1), (asked["err"], 2)):
            os.dup2(os.open(name, os.O_RDWR), number)
        os.chdir(asked["cwd"])
        os.environ.update(asked["env"])
        sys.argv, code = ["-c", *asked["arguments"]], 0
        try:
            exec(asked["code"], {"__name__": "__main__"})
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""


class Nursery:
    """A process that has imported all that takes long, timm before convswap, and forks a process
    for each run.

    Args:
        server: that process.
        folder: for what the others print.
    """

    def __init__(self, server: subprocess.Popen, folder: Path):
        self._server, self._folder, self._runs = server, folder, 0

    def start(self, code: str, *arguments: object, cwd: Path, env: Mapping[str, str] = {}) -> Run:
        """Start Python code in a process of its own, with `arguments` in `sys.argv`."""
        self._runs += 1
        out, err = (self._folder / f"{self._runs}.{stream}" for stream in ("out", "err"))
        out.touch()
        err.touch()
        said = {"code": code, "arguments": [*map(str, arguments)], "cwd": str(cwd)}
        said |= {"env": dict(env), "out": str(out), "err": str(err)}
        return Run(self, int(self.ask(said)), out, err)

    def run(
        self, code: str, *arguments: object, cwd: Path, env: Mapping[str, str] = {}
    ) -> Finished:
        """Run Python code in a process of its own to its end."""
        return self.start(code, *arguments, cwd=cwd, env=env).finished()

    def ask(self, what: Mapping[str, object]) -> str:
        """The server's answer."""
        self._server.stdin.write(json.dumps(what) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()


@dataclass(frozen=True)
class Run:
    """One of these processes.

    Attributes:
        out, err: files of what it prints.
    """

    nursery: Nursery
    pid: int
    out: Path
    err: Path

    def wait(self) -> int:
        """How it ends: its exit code, or less the number of the signal that ended it."""
        return int(self.nursery.ask({"wait": [self.pid, 0]}))

    def finished(self) -> Finished:
        """What it has left behind, once it has ended."""
        return Finished(self.wait(), self.out.read_text(), self.err.read_text())

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it, if it runs."""
        if self.running:
            self.send(signal.SIGKILL)
            self.wait()

    def says(self, line: str) -> bool:
        """Whether it has printed a line, and nothing before; waited for as long as it runs."""
        while not (said := self.out.read_text()) and self.running:
            time.sleep(0.01)
        return said == line + "\n"

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.nursery.ask({"wait": [self.pid, os.WNOHANG]}) == "running"


@contextmanager
def nursery_in(folder: Path) -> Iterator[Nursery]:
    """A nursery that is there inside.

    Args:
        folder: for what its processes print.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=environment, **pipes) as server:
        yield Nursery(server, folder)
        server.stdin.close()
