"""A rehearsal of NSE behind Kite's interface: a market, a matching engine and a server on loopback."""
