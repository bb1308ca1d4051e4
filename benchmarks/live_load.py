"""Live mode under load for as long as one likes: whether anything leaks, is lost, or is said of the wrong weights.

    python -m benchmarks.live_load [--minutes 60] [--users 20] [--kills N] [--keep DIR] [--markdown]

Runs ``sea-agent live live`` as real processes with simulated users, who ask as fast as they are answered, with half a
second in between. New weights go live about every half minute, as the gate lets everything pass. A further user asks
for a stream every second, and is never asked. Meanwhile the memory of each process is noted; afterwards

- the log-probability of every token of every stored response is recomputed with the weights whose version it names. A
  response under which the weights changed names the older ones, and is recomputed with both. In a control, responses
  that name the nearest other version must be found;
- what users were told is compared with what is on disk, and that with what the agent has learnt from;
- the growth of each process after the first sixth, and in the last half, is estimated.

A duel comes with one request of twenty, as in most apps. With ``--kills``, every request may get one, two engines
serve, and that many times a part is killed: an engine, the gateway, the decider, the agent, and so on.

Writes ``benchmarks/results/live_load.json``, or with kills ``live_kills.json``; ``--markdown`` prints it. A minute
needs about 20 MB of disk.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.keeping import keep
from benchmarks.live_load_checks import (
    Recomputing,
    after_kills,
    growth,
    kept_responses,
    learnt,
    lost,
    mislabelled,
    rows_of,
)
from benchmarks.live_load_run import ALWAYS, SELDOM, Watched, running, watch
from sea_agent.live.launch import DATABASE
from sea_agent.pretrained import use_threads
from sea_agent.service.chat.asking import Plan
from sea_agent.types import LabelSource
from sea_agent.worlds import resolve

RESULTS = Path(__file__).parent / "results"
POLICY = "world://lexicon/policy"
WARM, LATE = 1 / 6, 1 / 2
"""Shares of the time from which growth is estimated: once a process is warm, and once its posterior is large."""
MISLABELLED = 200
PERCENTILES = (50, 95, 99)


def examine(out: Path, seen: Watched, seconds: float) -> dict[str, Any]:
    """All figures of what has ended."""
    database = out / DATABASE
    rows = rows_of(database, "SELECT * FROM completions ORDER BY number")
    done = [row for row in rows if row["state"] == "done"]
    published = rows_of(database, "SELECT * FROM publications ORDER BY version")
    labels = rows_of(
        database,
        "SELECT q.client_key AS id, l.outcome, c.asked FROM labels l JOIN queries q ON q.id = l.query_id "
        "JOIN completions c ON c.id = q.client_key WHERE l.revises IS NULL",
    )
    verdicts = rows_of(
        out / "ledger.sqlite",
        "SELECT v.duel_id AS id, v.outcome FROM verdicts v JOIN duels d ON d.id = v.duel_id "
        f"WHERE d.label_source = '{LabelSource.ORACLE}'",
    )
    ended = seen.ended_at - 1.0
    told = [json.loads(line) for line in (out / "users.jsonl").read_text(encoding="utf-8").splitlines()]
    heard = [row["completion"] for row in told if row.get("completion") and row["outcome"] is None]
    errors = [row["at"] for row in told if "error" in row and row["at"] < ended]
    picks = [row["completion"] for row in told if row.get("outcome")]
    on_disk = [(row["id"], row["done_at"]) for row in done]
    kept = lost(heard + seen.streamed, picks, on_disk, [row["id"] for row in labels], ended)
    responses = kept_responses((row["prompt"], row["responses"]) for row in done)
    served = {one.version for one in responses}
    weights = {row["version"]: Path(row["path"]) for row in published if row["version"] in served}
    weights[0] = Path(published[0]["path"])  # the initial policy, as engines call what they start with
    recomputing = Recomputing(resolve(POLICY), weights)
    found, control = recomputing.compare(responses), mislabelled(responses, weights, MISLABELLED)
    plain = [row for row in done if row["asked"] is None and row["information"] is None]
    return {
        "minutes": seconds / 60,
        "requests": len(rows),
        "per_second": len(rows) / seconds,
        "failed": sum(row["state"] == "failed" and row["done_at"] < ended for row in rows),
        "errors": len(errors),
        "streams": len(seen.streamed),
        "cut": [reason for _, reason in seen.cut],
        "kills": Counter(name for _, name in seen.kills),
        "after_kills": {
            "cut": after_kills(seen.kills, [at for at, _ in seen.cut]),
            "errors": after_kills(seen.kills, errors),
        },
        "asked": sum(row["asked"] is not None for row in done),
        "picks": len(picks),
        "kept": asdict(kept),
        "learnt": asdict(
            learnt(
                {row["id"]: row["outcome"] for row in verdicts},
                {row["id"]: row["outcome"] for row in labels if row["asked"] == Plan.DUEL},
            )
        ),
        "first_token_ms": percentiles(seen.first_tokens),
        "first_token_at_gateway_ms": percentiles([row["first_token_at"] - row["created_at"] for row in plain]),
        "versions": len(served),
        "went_live": sum(row["state"] in ("live", "retired", "withdrawn") for row in published),
        "responses": len(responses),
        "agreement": asdict(found),
        "mislabelled": {"made": len(control), "found": len(recomputing.compare(control).wrong)},
        "restarts": {name: len(ids) - 1 for name, ids in seen.processes.items()},
        "memory": {
            name: {
                since: asdict(growth(*zip(*[one for one in noted if one[0] >= seconds * share / 3600], strict=True)))
                for since, share in (("warm", WARM), ("late", LATE))
            }
            for name, noted in seen.memory.items()
        },
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Of waits, in milliseconds."""
    return {f"p{one}": float(np.percentile(seconds, one)) * 1e3 for one in PERCENTILES} if seconds else {}


def markdown(result: dict[str, Any]) -> str:
    """The figures as tables."""
    kept, agreement, control = result["kept"], result["agreement"], result["mislabelled"]
    lines = [
        f"{result['minutes']:g} minutes, {result['users']} simulated users, {result['cores']} cores:",
        "",
        "| | |",
        "|---|---|",
        f"| requests, a second | {result['requests']:,}, {result['per_second']:g} |",
        f"| failed, refused or lost on the way | {result['failed']}, {result['errors']} |",
        f"| streams of a further user, cut | {result['streams']:,}, {len(result['cut'])} |",
        f"| first token of such a stream, p50 / p95 / p99 | {_waits(result['first_token_ms'])} |",
        f"| the same at the gateway, all plain requests | {_waits(result['first_token_at_gateway_ms'])} |",
        f"| versions that went live | {result['went_live']} |",
        f"| answers and picks lost, doubled, told to nobody | {kept['lost']}, {kept['doubled']}, {kept['unheard']} |",
        f"| responses of the weights that they name | {agreement['exact']:,} |",
        f"| under which the weights changed | {agreement['across']:,} |",
        f"| of other weights | {len(agreement['wrong'])} |",
        f"| largest difference of a token, nats | {agreement['largest']:g} |",
        f"| control: mislabelled responses, found | {control['made']}, {control['found']} |",
        f"| answers that the agent has; of them not what was said; not taken yet | {_learnt(result['learnt'])} |",
        f"| restarts of parts | {sum(result['restarts'].values())} |",
        *_after_kills(result),
        "",
        "| process | MB when warm | half-way | at the end | MB an hour | in the last half |",
        "|---|---|---|---|---|---|",
    ]
    for name, size in result["memory"].items():
        sizes = [size["warm"]["sizes"][0], size["late"]["sizes"][0], size["late"]["sizes"][-1]]
        lines.append(
            " | ".join([f"| {name}", *(f"{one:.0f}" for one in sizes), *map(_slope, (size["warm"], size["late"])), "|"])
        )
    return "\n".join(lines)


def _slope(size: dict[str, Any]) -> str:
    return f"{size['per_hour']:.1f} [{size['low']:.1f}, {size['high']:.1f}]"


def _learnt(learnt: dict[str, int]) -> str:
    return f"{learnt['answers']:,}, {learnt['strange']}, {learnt['waiting']:,}"


def _after_kills(result: dict[str, Any]) -> list[str]:
    """What users saw fail after kills of each part."""
    cut, errors = result["after_kills"]["cut"], result["after_kills"]["errors"]
    return [
        f"| {name}: kills, streams cut after them, requests failed | {count}, {cut[name]}, {errors[name]} |"
        for name, count in result["kills"].items()
    ]


def _waits(milliseconds: dict[str, float]) -> str:
    return " / ".join(f"{value:.0f}" for value in milliseconds.values()) + " ms"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory of the run, which stays; default: one that goes")
    parser.add_argument("--markdown", action="store_true", help="print what was measured last")
    given = parser.parse_args()
    results = RESULTS / ("live_kills.json" if given.kills else "live_load.json")
    if given.markdown:
        print(markdown(json.loads(results.read_text(encoding="utf-8"))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the parts end with this process
    with tempfile.TemporaryDirectory() as folder:
        out, key = (given.keep or Path(folder) / "out").resolve(), secrets.token_urlsafe(32)
        with running(out, given.users, key, ALWAYS if given.kills else SELDOM) as (process, url):
            seen = watch(process, url, key, given.minutes * 60, given.kills)
        use_threads(1)
        result = {"cores": os.cpu_count(), "users": given.users} | examine(out, seen, given.minutes * 60)
    print(markdown(keep(results, result)))


if __name__ == "__main__":
    main()
