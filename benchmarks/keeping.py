"""How benchmarks keep what they measured."""

import json
from pathlib import Path
from typing import Any

from sea_agent.lab.records import four_digits
from sea_agent.persistence.files import write_whole


def keep(results: Path, measured: Any) -> Any:
    """Write it as JSON, with four significant digits; returns what was written."""
    kept = _rounded(measured)
    write_whole(results, json.dumps(kept, indent=1) + "\n")
    return kept


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_rounded(value) for value in tree]
    return four_digits(tree) if isinstance(tree, float) else tree
