"""The shape of what `overspill demo --json` writes: what other programs may rely on."""

from typing import Any

COUNT = {"type": "integer", "minimum": 0}
USD = {"type": "number", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
MAYBE_USD = {"type": ["number", "null"], "minimum": 0}

REPORT: dict[str, Any] = {
    "type": "object",
    "required": [
        "requests",
        "lost",
        "wrong",
        "shed",
        "backends",
        "reasons",
        "cost_usd",
        "cost_per_1k_usd",
        "latency_ms",
        "budget_attained",
        "counterfactual",
        "seconds",
        "triton",
    ],
    "properties": {
        "requests": COUNT,
        "lost": COUNT,
        "wrong": COUNT,
        "shed": COUNT,
        "backends": {
            "type": "object",
            "required": ["fleet", "runpod", "modal", "aws_lambda"],
            "additionalProperties": {
                "type": "object",
                "required": ["requests", "start"],
                "additionalProperties": False,
                "properties": {
                    "requests": COUNT,
                    "start": {
                        "type": "object",
                        "required": ["warm", "cold", "unknown"],
                        "additionalProperties": False,
                        "properties": {"warm": COUNT, "cold": COUNT, "unknown": COUNT},
                    },
                },
            },
        },
        "reasons": {"type": "object", "additionalProperties": COUNT},
        "cost_usd": USD,
        "cost_per_1k_usd": USD,
        "cost_by_kind_usd": {"type": "object", "additionalProperties": USD},
        "cost_by_backend_usd": {"type": "object", "additionalProperties": USD},
        "latency_ms": {
            "type": "object",
            "required": ["p50", "p95", "p99"],
            "additionalProperties": {"type": "number", "minimum": 0},
        },
        "budget_attained": SHARE,
        "counterfactual": {
            "type": "object",
            "required": ["all_warm_usd", "all_serverless_usd"],
            "properties": {"all_warm_usd": MAYBE_USD, "all_serverless_usd": MAYBE_USD},
        },
        "seconds": {"type": "number", "exclusiveMinimum": 0},
        "triton": {"enum": ["real", "bundled"]},
    },
}
