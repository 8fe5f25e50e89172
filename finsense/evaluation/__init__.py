"""Honest judgement of a policy: backtest, metrics, baselines, report."""
