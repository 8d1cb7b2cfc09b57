"""The PostgreSQL that the campaign starts for itself: one that may be stopped at once, killed, and run out of disk.

A server we were handed (TEST_DATABASE_URL) may belong to others: nothing is done to it, and the faults that would
are skipped, with the reason in the campaign's summary.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg

from storage import embedded


class OwnServer:
    """An embedded server in a folder of its own; `url` is its superuser's address and stays good over restarts."""

    @classmethod
    @contextmanager
    def running(cls):
        """Have the server for the length of the block."""
        # Not below pytest's own folder: that is closed to the user an embedded server runs as under root.
        home = Path(tempfile.mkdtemp(prefix="batchpred-chaos-"))
        home.chmod(0o755)
        server = cls(home)
        try:
            server.start()
            with psycopg.connect(server.url, autocommit=True) as connection:
                # The machine outlives the server here, and what was written is then in the system's memory.
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            embedded.stop(home)
            shutil.rmtree(home, ignore_errors=True)

    def __init__(self, home):
        self.home = home
        self.url = ""
        self.data = None

    def start(self):
        """Start it, with recovery if it needs that, and wait until it answers."""
        started = embedded.start(self.home)
        self.url, self.data = started.url, started.data_directory

    def stop_at_once(self):
        """What `pg_ctl stop -m immediate` does: every session is dropped in the middle, nothing is written out."""
        self._end(signal.SIGQUIT)

    def kill(self):
        """SIGKILL of the postmaster; its children notice and end, and what was in its memory is gone."""
        self._end(signal.SIGKILL)

    def _end(self, how):
        pid = int((self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()[0])
        os.kill(pid, how)
        until = time.monotonic() + 30
        while _is_alive(pid):
            if time.monotonic() > until:
                raise AssertionError("the postmaster does not end")
            time.sleep(0.01)

    def why_no_small_disk(self):
        """Why no small file system can be made here; empty where one can."""
        try:
            with self.small_disk(64):
                return ""
        except subprocess.CalledProcessError as error:
            return error.stderr.strip() or "mount is not allowed"
        except OSError as error:
            return str(error)

    @contextmanager
    def small_disk(self, kilobytes):
        """A file system of so many kilobytes that the server may write to. Raises CalledProcessError or OSError."""
        folder = Path(tempfile.mkdtemp(prefix="disk-", dir=self.home))
        owner = self.data.stat()
        options = f"size={kilobytes}k,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
        _command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        try:
            yield folder
        finally:
            _command("umount", "--lazy", str(folder))
            folder.rmdir()


def give_room(folder):
    """Make a small file system large."""
    _command("mount", "-o", "remount,size=64m", str(folder))


def _command(*words):
    subprocess.run(words, check=True, capture_output=True, text=True)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
