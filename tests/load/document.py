"""schemathesis over the whole OpenAPI document, on a server that wants keys and has what the examples ask for.

`make document` runs it.
"""

import subprocess
import sys
import time
from pathlib import Path

from storage import api_keys
from tests.load.world import World

CONFIG = Path(__file__).with_name("schemathesis.toml")


def main():
    """Serve, let schemathesis ask, and exit with its code. The one argument is its program."""
    with World(rows=200) as world:
        world.publish()
        with world.database.connect(purpose="test") as connection:
            key = api_keys.create(connection, "schemathesis")
        with world.serving() as port:
            time.sleep(1)
            argv = [
                str(Path(sys.argv[1]).absolute()), "--config-file", str(CONFIG), "run", f"http://127.0.0.1:{port}/openapi.json",
                "--header", f"Authorization: Bearer {key}", *sys.argv[2:],
            ]  # fmt: skip
            # It leaves what it found in the folder where it runs.
            sys.exit(subprocess.run(argv, check=False, cwd=world.home).returncode)


if __name__ == "__main__":
    main()
