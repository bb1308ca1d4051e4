"""``python -m sea_agent`` is the command line."""

import sys
from pathlib import Path

# Python puts the working directory first, where a user's own oracle.py or learner.py would hide our packages.
sys.path.append(sys.path[0])
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sea_agent.cli import main  # noqa: E402

main()
