"""What a live run that has gone on for a while tells operators."""

from typing import Any

from service.conftest import START

RATE = {"n": 40, "share": 0.675, "low": 0.52, "high": 0.798}
NO_RATE = {"n": 0, "share": None, "low": None, "high": None}
REPORT = {
    "prompts": 64,
    "users": 5,
    "win_rate": 0.61,
    "win_low": 0.55,
    "judge_win_rate": None,
    "kl": 1.25,
    "length": 1.1,
    "distinct": 0.93,
    "gap": 0.0012,
    "engine_gap": None,
    "drift": 0.12,
}


def live_run(**values: Any) -> dict[str, Any]:
    """The versions that serve."""
    return {"run": "live", "live": 3, "canary": None, "frozen": False, "forced": None, "erasures": 0} | values


def publication(version: int, state: str, **values: Any) -> dict[str, Any]:
    """Published weights."""
    return {
        "version": version,
        "checksum": "ab" * 32,
        "round": version,
        "labels": 16 * version,
        "path": f"/out/weights/{version}",
        "state": state,
        "reason": "",
        "report": REPORT,
        "created_at": START,
        "decided_at": START,
    } | values


def summary(**values: Any) -> dict[str, Any]:
    """What happened to the requests of a day."""
    series = [
        {
            "at": START + 1440.0 * k,
            "requests": 20 + k % 7,
            "failed": k % 11 == 0,
            "asked": 2,
            "answered": k % 3,
            "regret": 0.9 - 0.01 * k if k % 9 else None,
            "first_token": 0.2 + 0.01 * (k % 5),
        }
        for k in range(60)
    ]
    return {
        "since": START,
        "until": START + 86_400.0,
        "requests": 1380,
        "failed": 6,
        "unfinished": 2,
        "eligible": 1200,
        "asked": 120,
        "answered": 66,
        "late": 3,
        "outcomes": {"first": 27, "second": 29, "tie": 6, "both_bad": 4},
        "implicit": {"first": 9, "second": 2},
        "first_shown": RATE,
        "answer_rate": {"n": 120, "share": 0.55, "low": 0.46, "high": 0.636},
        "audit": {"asked": 12, "wins": 5, "losses": 2, "ties": 1, "rate": RATE},
        "regret": {"n": 900, "mean": 0.412, "low": 0.38, "high": 0.444},
        "first_token": {"n": 1374, "p50": 0.207, "p95": 0.412, "p99": 1.2},
        "prompt_tokens": 40_000,
        "completion_tokens": 110_400,
        "thumbs_up": 9,
        "thumbs_down": 1,
        "edits": 2,
        "used": 3,
        "users": {"users": 40, "answering": 12, "most": [{"user": "9f" * 32, "answers": 14, "share": 14 / 66}]},
        "publications": {"live": 1, "retired": 1, "rejected": 1},
        "live": live_run(),
        "engines": [
            {
                "url": "http://127.0.0.1:8501",
                "version": 3,
                "wanted": 3,
                "error": None,
                "checked_at": START,
            },
            {
                "url": "http://127.0.0.1:8502",
                "version": 1,
                "wanted": 3,
                "error": "It does not answer.",
                "checked_at": START,
            },
        ],
        "series": series,
    } | values


PUBLICATIONS = [
    publication(
        4, "rejected", reason="win rate 0.510 may be 0.402, not above 0.45", report=REPORT | {"win_low": 0.402}
    ),
    publication(3, "live", reason="holds what the gate asks for"),
    publication(2, "retired"),
    publication(1, "withdrawn", reason="audits are against it", path="", report={"audits": 9, "lost": 8, "won": 1}),
]
