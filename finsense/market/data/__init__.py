"""Facts as data files: sessions, derivatives, charges, each row with its source."""
