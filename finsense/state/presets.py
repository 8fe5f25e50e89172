"""Named lists of features."""

PRESETS: dict[str, tuple[tuple[str, dict[str, float]], ...]] = {
    # 19 price differences over a 20-bar window, 1 volume, 9 values of RSI, MACD, Bollinger, ATR, trend; all scale-free.
    "classic29": (
        ("price_change", {"window": 20}),
        ("volume_ratio", {"window": 20}),
        ("rsi", {"window": 14}),
        ("macd", {"fast_window": 12, "slow_window": 26, "signal_window": 9}),
        ("bollinger", {"window": 20, "deviations": 2}),
        ("atr", {"window": 14}),
        ("trend", {"window": 20}),
    ),
}
