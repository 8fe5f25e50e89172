"""Names of what a bar may know beyond its own prices: closes of other series, and what its ticks and book showed."""

# Closes at or before the end of the bar, in rupees or points: an index, the index of the sector, India VIX.
REFERENCE_FIELDS = ("index_close", "sector_close", "vix_close")

# From the ticks of the bar; `finsense.market.ticks` says how each is made.
FLOW_FIELDS = (
    "ticks",
    "trades",
    "signed_volume",
    "realised_variance",
    "tick_vwap",
    "book_imbalance",
    "spread",
    "microprice_offset",
)

# Those of them that only ticks with an order book tell.
BOOK_FIELDS = ("book_imbalance", "spread", "microprice_offset")

# The place of a name is part of journals and golden vectors: append, never reorder.
EXTRA_FIELDS = REFERENCE_FIELDS + FLOW_FIELDS

# Above zero wherever they are known, so that 0 says "not known".
NEVER_ZERO = (*REFERENCE_FIELDS, "ticks", "tick_vwap")
