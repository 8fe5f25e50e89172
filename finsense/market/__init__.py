"""What the world gives us: bars, sessions, instruments, charges, and simulated markets."""
