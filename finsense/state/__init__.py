"""What the agent sees: indicators, the session-anchored builder, the scaler."""
