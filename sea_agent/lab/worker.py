"""The process of one cell: ``python -P -m sea_agent.lab.worker CONFIG OUT`` runs CONFIG into OUT.

It is ``sea-agent run CONFIG --out OUT`` without progress and figures, and it ends when whoever started it is gone.
"""

import os
import signal
import sys
import threading
from pathlib import Path


def main() -> None:
    """Exit 0 when the run is finished; otherwise 1, with the reason on stderr."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    # Only now what takes time to import.
    from sea_agent.config.files import load_config
    from sea_agent.errors import RunFailure, UserError
    from sea_agent.run.lifecycle import run

    config, out = sys.argv[1:]
    try:
        run(load_config(config), Path(out))
    except (UserError, RunFailure) as error:
        sys.exit(f"sea-agent: {error}")


def _end_with_starter() -> None:
    """The starter holds the other end of stdin open for as long as it lives, and writes nothing."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
