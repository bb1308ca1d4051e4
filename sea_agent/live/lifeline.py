"""Runs a part of live mode that ends when its starter ends: ``python -m sea_agent.live.lifeline -m MODULE ARGUMENTS``.

The starter holds the other end of the part's standard input. A starter that is killed can tell nobody, but the kernel
closes what it held, and the part reads the end of its input. Then it is killed, with all that it started: nobody is
left who would end it in order, a second start would find its port and its files in use, and what it acknowledged is on
disk.
"""

import os
import runpy
import signal
import sys
import threading


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Entry point."""
    threading.Thread(target=_end_with_starter, name="lifeline", daemon=True).start()
    _, _, module, *arguments = sys.argv  # this module, -m, and what it runs
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
