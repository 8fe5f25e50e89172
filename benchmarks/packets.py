"""Decoding Kite's tick frames, beside the parser of the vendor's own client."""

import struct

import numpy as np
from kiteconnect import KiteTicker

from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate, remark
from finsense.live.feeds.kite_packets import FrameDecoder, ticks_of

_PACKETS = 1000
_FULL_BYTES = 184


def decode(effort: Effort) -> list[Measurement]:
    """Frames of 1,000 packets in full mode: to records, and on to ticks with their books.

    The vendor's parser gives dictionaries, so it stands beside both.
    """
    packets = effort.count(_PACKETS, 10)
    frame = _frame(packets)
    decoder, theirs = FrameDecoder(), KiteTicker("key", "token")
    remark(f"decode_packets: frames of {packets:,} packets in full mode")
    peer = Peer("kiteconnect", Contender(lambda: theirs._parse_binary(frame), packets))
    records = Contender(lambda: decoder.decode(frame), packets)
    ticks = Contender(lambda: ticks_of(decoder.decode(frame)), packets)
    return [
        *measure_rate("decode_packets", "packets", records, effort, [peer]),
        *measure_rate("decode_packets_to_ticks", "packets", ticks, effort, [peer]),
    ]


def _frame(packets: int) -> bytes:
    generator = np.random.default_rng(0)
    bodies = [generator.integers(0, 2**31, _FULL_BYTES // 4).astype(">u4").tobytes() for _ in range(packets)]
    return struct.pack(">H", packets) + b"".join(struct.pack(">H", _FULL_BYTES) + body for body in bodies)
