"""PgBouncer in transaction mode between us and a database, and a look at what its sessions were left with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import conninfo

from storage.embedded import process

# Debian keeps it where only root's PATH goes.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
WHY_NOT = "there is no pgbouncer here (Debian: apt-get install pgbouncer)"

# What a session was left with that the next client of it would meet. PgBouncer itself sets the time zone and the
# name of each client anew.
LEFT = """
SELECT pg_backend_pid() AS session,
       array_remove(ARRAY[CASE WHEN current_user <> session_user THEN 'role ' || current_user END]
       || ARRAY(SELECT name || ' = ' || setting FROM pg_settings
                 WHERE source = 'session' AND setting IS DISTINCT FROM reset_val
                   AND name NOT IN ('TimeZone', 'application_name', 'client_encoding', 'DateStyle',
                                    'standard_conforming_strings', 'transaction_isolation',
                                    'transaction_read_only', 'transaction_deferrable'))
       || ARRAY(SELECT 'listens to ' || channel FROM pg_listening_channels() AS channel)
       || ARRAY(SELECT 'has prepared ' || name FROM pg_prepared_statements)
       || ARRAY(SELECT 'has cursor ' || name FROM pg_cursors WHERE name <> '')
       || ARRAY(SELECT 'has locked ' || objid FROM pg_locks
                 WHERE locktype = 'advisory' AND pid = pg_backend_pid())
       || ARRAY(SELECT 'has table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
       NULL) AS left
"""


class Bouncer:
    """A pooler in front of one database: its address, and how many of the server's sessions it lends."""

    def __init__(self, address: str, size: int) -> None:
        self.address = address
        self.size = size

    def left_behind(self) -> list[list[str]]:
        """Look into every session it lends, all at once, and list what each was left with."""
        with ExitStack() as stack:
            found = {}
            for _ in range(self.size):
                connection = stack.enter_context(psycopg.connect(self.address, prepare_threshold=None))
                session, left = connection.execute(
                    LEFT
                ).fetchone()  # the transaction stays open, so it is kept
                found[session] = left
        assert self.size == len(found)
        return list(found.values())


@contextmanager
def bouncing(url: str, size: int, *, more: str = ""):
    """Start PgBouncer for the length of the block; whoever comes is let in as the user of `url`."""
    server = conninfo.conninfo_to_dict(url)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    account = process.server_account(Path("/nowhere"))  # PgBouncer refuses root, too
    with tempfile.TemporaryDirectory(prefix="batchpred-bouncer-") as folder:
        Path(folder).chmod(0o755)
        settings = Path(folder) / "pgbouncer.ini"
        to = " ".join(
            f"{name}={server[name]}" for name in ("host", "port", "user", "password") if name in server
        )
        settings.write_text(
            f"[databases]\n* = {to}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {size}\n{more}",
            encoding="utf-8",
        )
        running = subprocess.Popen(
            [PROGRAM, "-q", settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            user=account and account.uid, group=account and account.gid, extra_groups=[] if account else None,
        )  # fmt: skip
        try:
            while True:
                with (
                    suppress(ConnectionRefusedError),
                    socket.create_connection(("127.0.0.1", port), timeout=5),
                ):
                    break
                if running.poll() is not None:
                    raise AssertionError(running.communicate()[1])
                time.sleep(0.01)
            yield Bouncer(f"postgresql://whoever@127.0.0.1:{port}/{server['dbname']}", size)
        finally:
            running.terminate()
            running.communicate(timeout=20)
