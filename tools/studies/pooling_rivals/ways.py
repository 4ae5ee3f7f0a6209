"""Ways of pooling that are compared: options of a site by name."""

from typing import Any

AFFINITY, UNIFORM_MEAN = "affinity", "uniform_mean"
CTC, CHANGE = "ctc", "change"
# Without the retention; those of affinity have a tau instead, the same for all utterances.
WAYS: dict[str, dict[str, Any]] = {
    AFFINITY: {},
    "affinity_ctc": {"weight": CTC},
    "affinity_change": {"weight": CHANGE},
    UNIFORM_MEAN: {"method": UNIFORM_MEAN},
    "uniform_mean_ctc": {"method": UNIFORM_MEAN, "weight": CTC},
    "uniform_mean_change": {"method": UNIFORM_MEAN, "weight": CHANGE},
    "runs": {"boundaries": CTC},
    "runs_ctc": {"boundaries": CTC, "weight": CTC},
    "a_tome": {"method": "a_tome"},
    "a_tome_ctc": {"method": "a_tome", "weight": CTC},
    "interpolation": {"method": "interpolation"},
    "uniform_drop": {"method": "uniform_drop"},
    "random_drop": {"method": "random_drop"},
}


def has_tau(way: str) -> bool:
    """Whether a tau says what is left, not a retention."""
    return way.startswith(AFFINITY)


def needs_ctc(way: str) -> bool:
    """Whether a CTC head is read."""
    return CTC in WAYS[way].values()
