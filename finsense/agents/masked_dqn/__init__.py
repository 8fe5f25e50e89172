"""Stable-Baselines3's DQN under action masks: double, n-step, dueling, prioritised, compiled."""
