"""What supervised models share: their data, their fitting, and the way from a forecast to an action."""
