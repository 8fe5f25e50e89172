"""The indicator families, one file each; importing this package registers them all."""

from finsense.state.indicators import (
    bands,
    momentum,
    momentum_oscillators,
    money_flow,
    price,
    regime,
    session,
    session_levels,
    trend,
    trend_averages,
    trend_channels,
    trend_direction,
    volatility,
    volume,
)

__all__ = [
    "bands",
    "momentum",
    "momentum_oscillators",
    "money_flow",
    "price",
    "regime",
    "session",
    "session_levels",
    "trend",
    "trend_averages",
    "trend_channels",
    "trend_direction",
    "volatility",
    "volume",
]
