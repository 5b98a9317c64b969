"""`python -m service` as README's reader meets it."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import yaml

from service.migrate import MIGRATIONS
from service.settings import Settings
from tests.http_service import Process

CHECKOUT = MIGRATIONS.parent.parent
README = (CHECKOUT / "README.md").read_text()


def readme_commands() -> tuple[list[str], list[str]]:
    """The three commands of README's first screen, and the output that it shows for them."""
    after = README.partition("In a second terminal")[2].partition("Milliseconds later")[0]
    commands, output = [block.strip("\n").splitlines() for block in re.findall(r"(?:^    .+\n)+", after, re.MULTILINE)]
    return [line.strip() for line in commands], [line.strip() for line in output]


async def test_readmes_commands_give_readmes_output(tmp_path: Path) -> None:
    process = Process("service", "", DATA_DIR=str(tmp_path / "data"))
    try:
        async with aiohttp.ClientSession() as session:
            await process.up(session)
            commands, output = readme_commands()
            said = []
            for line in commands:
                words = shlex.split(line.replace("localhost:8080", f"localhost:{process.port}"))
                words[0] = sys.executable if words[0].startswith(".venv") else words[0]
                environment = os.environ | {"DATA_DIR": str(tmp_path / "data")}
                done = await asyncio.to_thread(
                    subprocess.run, words, env=environment, capture_output=True, text=True, check=True
                )
                said.append(done.stdout.strip())
            assert said == output
            async with asyncio.timeout(10):
                while (await _psql(tmp_path, "select status from invoices")).strip() != "paid":
                    await asyncio.sleep(0.01)
    finally:
        status, printed = await process.end(signal.SIGINT)
    assert status == 0
    assert f"http://127.0.0.1:{process.admin_port}/docs" in printed
    assert not (tmp_path / "data" / "cluster" / "postmaster.pid").exists()


async def test_it_ends_when_its_postgresql_does_and_starts_again(tmp_path: Path) -> None:
    environment = {"DATA_DIR": str(tmp_path / "data")}
    process = Process("service", "", **environment)
    async with aiohttp.ClientSession() as session:
        await process.up(session)
        os.kill(int((tmp_path / "data" / "cluster" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        status, printed = await asyncio.to_thread(process.process.wait, 20), process.process.communicate()[0]
        again = Process("service", "", **environment)
        await again.up(session)
        ended, _ = await again.end(signal.SIGINT)
    assert (status, ended) == (1, 0)
    assert "server.log" in printed
    assert "Traceback" not in printed


async def test_it_stops_in_time_whatever_hangs_on_its_admin_port(database_url: str) -> None:
    process = Process("service.server", database_url, ALLOW_UNSIGNED="true", OPERATOR_TOKENS="ann:" + "x" * 30)
    async with aiohttp.ClientSession() as session:
        await process.up(session)
    _, writer = await asyncio.open_connection("127.0.0.1", process.admin_port)
    writer.write(
        b"POST /console/sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 1000\r\n\r\ntoken="
    )
    await writer.drain()
    await asyncio.sleep(0.5)
    async with asyncio.timeout(10):
        status, _ = await process.end()
    writer.close()
    assert status == 0


def test_it_may_open_as_many_files_as_the_system_allows() -> None:
    code = (
        "import resource; from service import process; limit = resource.RLIMIT_NOFILE;"
        "hard = resource.getrlimit(limit)[1]; resource.setrlimit(limit, (64, hard)); process.allow_open_files();"
        "assert resource.getrlimit(limit) == (hard, hard)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_second_start_on_the_same_port_says_which_setting_to_change(database_url: str) -> None:
    first = Process("service.server", database_url, ALLOW_UNSIGNED="true")
    async with aiohttp.ClientSession() as session:
        await first.up(session)
        second = Process("service.server", database_url, ALLOW_UNSIGNED="true", ADMIN_PORT=str(first.admin_port))
        status, said = await asyncio.to_thread(second.process.wait), second.process.communicate()[0]
    await first.end()
    assert status == 1
    assert said.startswith("ADMIN_PORT")


async def _psql(tmp_path: Path, query: str) -> str:
    command = [sys.executable, "-m", "service", "psql", "-Atc", query]
    environment = os.environ | {"DATA_DIR": str(tmp_path / "data")}
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_compose_starts_what_exists_with_settings_that_exist_and_bakes_in_no_secret() -> None:
    text = (CHECKOUT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    for name in ("server", "listener"):
        service = services[name]
        assert (CHECKOUT / "service" / f"{name}.py").exists()
        assert service["command"] == f"python -m service.{name}"
        assert {variable.lower() for variable in service["environment"]} <= set(Settings.model_fields)
        assert (service["read_only"], service["user"], service["cap_drop"]) == (True, "nobody", ["ALL"])
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
    assert not re.search(r"(PASSWORD|SECRETS): [^$]", text)
