"""Processes of the service under test, and what they take of the machine."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import aiohttp

from tests.http_service import free_port

TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A running `python -m MODULE`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, admin_port: int, log: IO[bytes]):
        self.pid = process.pid
        self.port = port
        self._process = process
        self.admin = f"http://127.0.0.1:{admin_port}"
        self._log = log

    async def get(self, path: str) -> str:
        """What its ADMIN_PORT answers; empty where it is not up."""
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(self.admin + path) as response:
                return await response.text() if response.ok else ""
        return ""

    async def up(self, path: str) -> None:
        """Wait until its ADMIN_PORT answers."""
        while not await self.get(path):
            if self._process.poll() is not None:
                self._log.seek(0)
                raise SystemExit(f"A process of the service did not start: {self._log.read().decode()}")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(module: str, *arguments: str, ready: str = "/metrics", **environment: str) -> AsyncIterator[Process]:
    """`python -m MODULE` for the block, once `ready` of its ADMIN_PORT answers. Its log is not shown."""
    port, admin_port = free_port(), free_port()
    ours = {"PORT": str(port), "ADMIN_PORT": str(admin_port)}
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, env=os.environ | ours | environment, stderr=log)  # noqa: ASYNC220 - starts at once
        try:
            running = Process(process, port, admin_port, log)
            await running.up(ready)
            yield running
        finally:
            process.terminate()
            process.wait(20)


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS


def children(pid: int) -> list[int]:
    """The processes that it started, PostgreSQL's backends for its postmaster."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def megabytes(*pids: int) -> float:
    """Memory of processes in MB; of what several share, each counts its part."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024
