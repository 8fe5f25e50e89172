"""Named lists of features; an indicator that is named alone has its default parameters."""

Preset = tuple[tuple[str, dict[str, float]], ...]


def _with_defaults(*names: str) -> Preset:
    return tuple((name, {}) for name in names)


PRESETS: dict[str, Preset] = {
    # 19 price differences over a 20-bar window, 1 volume, 9 values of RSI, MACD, Bollinger, ATR and trend.
    "classic29": (
        ("price_change", {"window": 20}),
        ("volume_ratio", {"window": 20}),
        ("rsi", {"window": 14}),
        ("macd", {"fast_window": 12, "slow_window": 26, "signal_window": 9}),
        ("bollinger", {"window": 20, "deviations": 2}),
        ("atr", {"window": 14}),
        ("trend", {"window": 20}),
    ),
    # 40 columns: one or two of each kind of question, none of them the same question twice.
    "core": (
        ("price_change", {"window": 5}),
        *(("log_return", {"window": window}) for window in (10.0, 20.0, 60.0)),
        *_with_defaults("sma", "kama", "macd", "adx", "aroon", "trend", "rsi", "stoch"),
        *_with_defaults("atr", "bollinger", "realised_volatility", "volatility_regime"),
        *_with_defaults("volume_ratio", "obv", "cmf", "mfi", "session_vwap"),
        *_with_defaults("session_left", "session_gap", "session_open", "session_range"),
        *_with_defaults("autocorrelation", "variance_ratio"),
    ),
    # Every indicator that needs no more than the bars of the stock itself, with its defaults,
    # but for `level_distance`, whose level the user must name.
    "full": (
        *_with_defaults("price_change", "log_return", "lagged_difference", "gap", "round_number"),
        *_with_defaults("session_left", "session_gap", "session_open", "session_previous_close", "session_range"),
        *_with_defaults("sma", "ema", "wma", "macd", "trend", "trix", "mass_index", "dpo", "kst"),
        *_with_defaults("aroon", "cci", "ichimoku", "psar", "adx", "vortex", "stc"),
        *_with_defaults("rsi", "roc", "tsi", "ao", "kama", "ppo", "pvo", "stoch", "wr", "stoch_rsi", "uo"),
        *_with_defaults("atr", "bollinger", "bb", "kc", "dc", "ui", "realised_volatility", "parkinson", "garman_klass"),
        *_with_defaults("volume_ratio", "obv", "vpt", "nvi", "fi", "em", "adi", "cmf", "mfi", "vwap", "session_vwap"),
        *_with_defaults("volatility_regime", "autocorrelation", "variance_ratio", "drawdown_state"),
        *_with_defaults("session_minute", "bars_to_close", "weekday", "holiday", "month_end", "expiry", "price_band"),
    ),
    # The stock beside an index; the data must name one under `references`.
    "market": _with_defaults("index_beta", "index_relative_strength", "index_return", "index_volatility"),
    # Order flow; the bars must be made of ticks with their order book.
    "flow": (
        *_with_defaults("signed_volume", "trade_count", "intrabar_volatility", "intrabar_noise", "tick_vwap"),
        *_with_defaults("book_imbalance", "spread", "microprice"),
    ),
}
