"""Our decoder of Kite's binary frames against the parser of the vendor's own client, run in a process of its own."""

import json
import os
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from finsense.live.feeds.kite_packets import FULL, INDEX_FULL, LTP, PACKET, FrameDecoder, PacketError, ticks_of
from finsense.market.order_book import Level

NSE, CURRENCY, BSE_CURRENCY, INDICES, COMMODITY = 1, 3, 6, 9, 12
# The vendor's client parses; its naive local times are those of UTC.
PARSE = """
import json, sys
from kiteconnect import KiteTicker
ticker = KiteTicker("key", "token")
def plain(value):
    return value.timestamp() if hasattr(value, "timestamp") else value
for line in sys.stdin:
    ticks = ticker._parse_binary(bytes.fromhex(line.strip()))
    print(json.dumps(ticks, default=plain))
"""


def random_packet(rng: np.random.Generator, size: int, segment: int) -> bytes:
    words = rng.integers(0, 2**31, size // 4).astype(">u4")
    words[0] = int(rng.integers(1, 2**20)) << 8 | segment
    packet = bytearray(words.tobytes())
    if size == 184:
        for row in range(10):
            quantity, price, orders = (int(value) for value in rng.integers(0, 60_000, 3))
            struct.pack_into(">IIHH", packet, 64 + 12 * row, quantity, price, orders, 0)
    return bytes(packet)


def frame_of(packets: list[bytes]) -> bytes:
    return struct.pack(">H", len(packets)) + b"".join(struct.pack(">H", len(one)) + one for one in packets)


def as_theirs(packet: np.void) -> dict[str, Any]:
    """A packet of ours in the vendor's words."""
    mode, divisor = int(packet["mode"]), int(packet["divisor"])
    token = int(packet["token"])

    def price(name: str) -> float:
        return int(packet[name]) / divisor

    said: dict[str, Any] = {
        "tradable": token & 0xFF != INDICES,
        "mode": ("ltp", "quote", "full", "quote", "full")[mode],
        "instrument_token": token,
        "last_price": price("last_price"),
    }
    if mode == LTP:
        return said
    said["ohlc"] = {name: price(name) for name in ("open", "high", "low", "close")}
    close = said["ohlc"]["close"]
    said["change"] = (said["last_price"] - close) * 100 / close if close else 0
    if mode not in (3, INDEX_FULL):
        said |= {
            "last_traded_quantity": int(packet["last_quantity"]),
            "average_traded_price": price("average_price"),
            "volume_traded": int(packet["volume"]),
            "total_buy_quantity": int(packet["buy_quantity"]),
            "total_sell_quantity": int(packet["sell_quantity"]),
        }
    if mode == FULL:
        said["last_trade_time"] = float(packet["last_trade_s"])
        said |= {"oi": int(packet["open_interest"]), "oi_day_high": int(packet["open_interest_high"])}
        said["oi_day_low"] = int(packet["open_interest_low"])
        said["depth"] = {
            name: [
                {
                    "quantity": int(packet[f"{side}_quantity"][level]),
                    "price": int(packet[f"{side}_price"][level]) / divisor,
                    "orders": int(packet[f"{side}_orders"][level]),
                }
                for level in range(5)
            ]
            for name, side in (("buy", "bid"), ("sell", "ask"))
        }
    if mode in (FULL, INDEX_FULL):
        said["exchange_timestamp"] = float(packet["exchange_s"])
    return said


def test_every_field_is_what_the_vendors_client_reads() -> None:
    """1,200 frames with packets of every mode and segment, in any mixture."""
    pytest.importorskip("kiteconnect")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(1200):
        packets = []
        for _ in range(int(rng.integers(0, 9))):
            segment = int(rng.choice([NSE, CURRENCY, BSE_CURRENCY, INDICES, COMMODITY]))
            sizes = [8, 28, 32] if segment == INDICES else [8, 44, 184]
            packets.append(random_packet(rng, int(rng.choice(sizes)), segment))
        frames.append(frame_of(packets))
    parsed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE],
        input="\n".join(frame.hex() for frame in frames),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TZ": "UTC"},
    )
    decoder = FrameDecoder()
    theirs = [json.loads(line) for line in parsed.stdout.splitlines()]
    assert [[as_theirs(packet) for packet in decoder.decode(frame)] for frame in frames] == theirs
    assert decoder.unknown == 0


def test_a_heartbeat_has_no_packets() -> None:
    decoder = FrameDecoder()
    assert len(decoder.decode(b"\x00")) == len(decoder.decode(b"")) == len(decoder.decode(b"\x00\x00")) == 0


def test_a_packet_of_unknown_length_is_counted_and_its_neighbours_are_read() -> None:
    rng = np.random.default_rng(1)
    packets = [random_packet(rng, 44, NSE), b"\x01" * 52, random_packet(rng, 8, NSE)]
    decoder = FrameDecoder()
    found = decoder.decode(frame_of(packets))
    assert [int(one["token"]) for one in found] == [int.from_bytes(packets[at][:4], "big") for at in (0, 2)]
    assert decoder.unknown == 1


@given(st.data())
def test_a_frame_cut_anywhere_is_refused_whole(data: st.DataObject) -> None:
    rng = np.random.default_rng(2)
    frame = frame_of([random_packet(rng, size, NSE) for size in (184, 8, 44)])
    cut = data.draw(st.integers(2, len(frame) - 1))
    with pytest.raises(PacketError, match="expected 3 packets"):
        FrameDecoder().decode(frame[:cut])
    with pytest.raises(PacketError, match="end elsewhere"):
        FrameDecoder().decode(frame + data.draw(st.binary(min_size=1, max_size=8)))


@given(st.binary(max_size=400))
def test_no_bytes_do_anything_but_decode_or_be_refused(frame: bytes) -> None:
    decoder = FrameDecoder()
    try:
        packets = decoder.decode(frame)
    except PacketError:
        return
    assert packets.dtype == PACKET
    assert len(ticks_of(packets)) == len(packets)


def test_nothing_of_an_earlier_frame_is_left_in_a_later_one() -> None:
    rng = np.random.default_rng(3)
    decoder = FrameDecoder()
    decoder.decode(frame_of([random_packet(rng, 184, NSE)]))
    alone = decoder.decode(frame_of([short := random_packet(rng, 8, NSE)])).copy()
    fresh: NDArray[Any] = FrameDecoder().decode(frame_of([short]))
    assert alone.tobytes() == fresh.tobytes()


def test_a_full_packet_becomes_a_tick_in_utc_with_its_book() -> None:
    packet = bytearray(184)
    struct.pack_into(">16I", packet, 0, 408065 << 8 | NSE, 150_005, *[0] * 2, 1_234_567, *[0] * 10, 1_760_000_000)
    struct.pack_into(">IIHH", packet, 64, 300, 150_000, 4, 0)
    struct.pack_into(">IIHH", packet, 124, 200, 150_010, 2, 0)
    ((token, tick),) = ticks_of(FrameDecoder().decode(frame_of([bytes(packet)])))
    assert token == 408065 << 8 | NSE
    assert tick.time_ns == 1_760_000_000 * 10**9
    assert (tick.last_price, tick.volume) == (1500.05, 1_234_567)
    assert tick.depth is not None
    assert tick.depth.bids[0] == Level(1500.0, 300)
    assert tick.depth.asks[0] == Level(1500.1, 200)


def test_an_index_has_no_volume_and_no_book() -> None:
    rng = np.random.default_rng(4)
    ((_, tick),) = ticks_of(FrameDecoder().decode(frame_of([random_packet(rng, 32, INDICES)])))
    assert tick.volume is None
    assert tick.depth is None
    assert tick.time_ns > 0
