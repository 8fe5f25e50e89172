"""Gymnasium environments over the account; importing this package registers finsense/Trading-v0."""

import gymnasium as gym

if "finsense/Trading-v0" not in gym.registry:
    gym.register("finsense/Trading-v0", entry_point="finsense.envs.trading:TradingEnv")
