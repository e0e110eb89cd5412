"""What makes the libraries phone home, and the words that forbid it (docs/privacy.md, Telemetry)."""

from collections.abc import Mapping
from types import MappingProxyType

OFF: Mapping[str, str] = MappingProxyType(
    {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "ORT_DISABLE_TELEMETRY": "1",
    }
)
"""Environment variables: for Flower, Ray and onnxruntime, which reads its own when it is imported."""
