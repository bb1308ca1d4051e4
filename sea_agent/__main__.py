"""``python -m sea_agent`` is the command line."""

import sys

# Python puts the working directory first; a user's own oracle.py or learner.py there must not hide our packages.
sys.path.append(sys.path.pop(0))

from sea_agent.cli import main

main()
