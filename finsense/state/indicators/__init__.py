"""The indicator families, one file each; importing this package registers them all."""

from finsense.state.indicators import momentum, price, session, trend, volatility, volume

__all__ = ["momentum", "price", "session", "trend", "volatility", "volume"]
