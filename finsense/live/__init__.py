"""The loop that runs a bundle over a feed and a broker, with a journal."""
