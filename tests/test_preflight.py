"""Preflight: a green scene is green, and every failure that it claims to find is produced and found."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, setting
from services import Service
from typer.testing import CliRunner

from finsense.cli.errors import PREFLIGHT
from finsense.config.live import load_live
from finsense.live.account_lock import AccountLock
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.checks import Check, Mode, Scene, State, carry_out
from finsense.live.checks.broker import FEED, TRADING
from finsense.live.clock import FastClock
from finsense.live.desk_records import intent_body
from finsense.live.journal import Journal, identity_text
from finsense.live.kill_switch import KillSwitch
from finsense.live.orders import OrderRequest
from finsense.live.preflight import green, wanted_checks
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.server import API_KEY, Rehearsal
from finsense.live.rehearsal.stage import stage as set_stage
from finsense.live.secret_store import SecretMissing
from finsense.live.start import identity_of
from finsense.market.bars import Bars
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import write_bundle

ROOT = Path(__file__).resolve().parents[1]
DAY = dt.date(2026, 7, 15)
SYMBOLS = ("SIMA", "SIMB")


@pytest.fixture(scope="module")
def markets() -> list[Bars]:
    simulated = {
        "model": "random_walk",
        "symbols": SYMBOLS,
        "interval": "5m",
        "first": DAY - dt.timedelta(8),
        "last": DAY,
    }
    found = SimulatedMarket.model_validate({**simulated, "seed": 3}).load()
    return [found[symbol] for symbol in SYMBOLS]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle with a validation result, and one without."""
    folder = tmp_path_factory.mktemp("bundles")
    terms = setting(limits={"preset": "small_account"})
    made = make_bundle(folder / "unproven", terms)
    graph = (folder / "unproven" / "policy.onnx").read_bytes()
    for name, changed in (
        ("proven", {"validation": {"sharpe": 1.0}, "symbols": SYMBOLS}),
        ("alarmed", {"validation": {"sharpe": 1.0}, "symbols": SYMBOLS, "alarms": {"idle": "it never trades"}}),
        ("foreign", {"validation": {"sharpe": 1.0}}),
    ):
        manifest = made.manifest.model_copy(update=changed)
        write_bundle(folder / name, graph, manifest, made.golden, made.config, "# card\n")
    return {path.name: path for path in folder.iterdir()}


class World:
    """A rehearsal, a scene before it, and hands on what may be wrong."""

    def __init__(self, stage: Rehearsal, home: Path, bundle: Path, services: list[Service]) -> None:
        self.stage, self.home, self.bundle, self.services = stage, home, bundle, services
        self.secrets: dict[str, str] = {}
        self.overrides: list[str] = []
        self.mode: Mode = "live"
        self.token = stage.log_in()
        self.now_ns: int | None = None
        self.stack = ExitStack()

    def rest(self, token: str | None = None) -> KiteRest:
        limits = self.stack.enter_context(closing(RateLimits(self.home.parent / "requests.db")))
        rest = KiteRest(API_KEY, self.token if token is None else token, limits, root=self.stage.root, timeout_s=5.0)
        return self.stack.enter_context(closing(rest))

    def settings(self) -> list[str]:
        return [
            f"home={self.home}",
            f"bundle={self.bundle}",
            "limits={}",
            f"broker.root={self.stage.root}",
            f"broker.stream_root={self.stage.stream_root}",
            f"alarms.webhooks=[{self.services[0].address}]",
            f"heartbeat={{url: {self.services[1].address}}}",
            *self.overrides,
        ]

    def scene(self) -> Scene:
        setup = load_live(ROOT / "configs" / "live_rehearsal.yaml", self.settings())
        now_ns = self.stage.clock.now_ns() if self.now_ns is None else self.now_ns

        def secret(name: str) -> str:
            if name not in self.secrets:
                raise SecretMissing(f"there is no {name}")
            return self.secrets[name]

        rest = self.rest() if self.token else None
        why = "" if self.token else "there is no access token"
        return Scene(setup, Path("live.yaml"), self.mode, FastClock(now_ns, 0.0), secret, rest, why, self.token)

    def look(self, only: str | None = None) -> list[Check]:
        scene = self.scene()
        checks = wanted_checks(scene.setup, scene.mode, FEED, TRADING)
        if only is not None:
            assert only in checks
            checks = {only: checks[only]}
        return carry_out(scene, checks)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finsense.live.checks.broker._LISTEN_S", 2.0)


@pytest.fixture
def world(markets: list[Bars], bundles: dict[str, Path], tmp_path: Path) -> Iterator[World]:
    services = [Service(), Service()]
    with set_stage(markets, DAY, speed=0, balance_paise=20_000_000) as stage:
        # Up to 09:40 of the day, so that both shares have traded.
        stage.play(40)
        made = World(stage, tmp_path / "home", bundles["proven"], services)
        try:
            with made.stack:
                yield made
        finally:
            for service in services:
                service.close()


def test_a_good_scene_is_green(world: World) -> None:
    checks = world.look()
    assert {check.name: check.text for check in checks if check.state is not State.OK} == {}
    assert green(checks)
    assert [check.name for check in checks] == [
        "kill switch",
        "account lock",
        "disk",
        "request rates",
        "bundle",
        "validation",
        "limits",
        "journal",
        "calendar",
        "clock",
        "token",
        "instruments",
        "warm-up",
        "ticks",
        "static address",
        "funds",
        "positions",
        "alarm channels",
        "heartbeat",
    ]
    assert world.services[0].bodies[0]["kind"] == "test"


def test_paper_asks_the_broker_for_ticks_alone(world: World) -> None:
    world.mode = "paper"
    names = {check.name for check in world.look()}
    assert "ticks" in names
    assert not names & {"funds", "positions", "static address"}


Break = Callable[[World, ExitStack], object]


def _orders(world: World, stack: ExitStack) -> None:
    """Somebody bought our share by hand."""
    world.rest().place(
        OrderRequest("byhand", "SIMA", "BUY", 5, "MARKET", "MIS", market_protection=-1),
    )


def _wrong_clock(world: World, stack: ExitStack) -> None:
    """A broker whose clock is a minute behind ours."""
    service = Service()
    stack.callback(service.close)
    handler: Any = service.server.RequestHandlerClass
    handler.date_time_string = lambda self, at=None: formatdate(world.stage.clock.now_ns() / 1e9 - 60, usegmt=True)
    world.overrides += [f"broker.root={service.root}", f"broker.stream_root={service.root.replace('http', 'ws')}"]


def _unwritable(world: World, stack: ExitStack) -> None:
    world.home.parent.mkdir(exist_ok=True)
    world.home.write_text("a file where the folder should be")


def _broken_rates(world: World, stack: ExitStack) -> None:
    (world.home).mkdir(exist_ok=True)
    (world.home / "rates2.db").write_bytes(b"no database" * 100)
    stack.enter_context(pytest.MonkeyPatch.context()).setattr(
        type(world.scene().setup), "rates", property(lambda setup: setup.home / "rates2.db")
    )


def _yesterdays_list(world: World, stack: ExitStack) -> None:
    """A list of the day with other tokens, as a dump of yesterday has them."""
    world.look("instruments")
    path = world.home / "instruments.csv"
    path.write_text("\n".join(line.replace("256001,SIMA", "999001,SIMA") for line in path.read_text().split("\n")))


def _fewer_sessions(world: World, stack: ExitStack) -> None:
    whole = world.stage.rest._candles
    world.stage.rest._candles = lambda *asked: [row for row in whole(*asked) if "T14:" in row[0]]


def _holes(world: World, stack: ExitStack) -> None:
    whole = world.stage.rest._candles
    world.stage.rest._candles = lambda *asked: [row for row in whole(*asked) if "T11:3" not in row[0]]


def _silent_stream(world: World, stack: ExitStack) -> None:
    world.stage.faults.rates[Fault.STREAM_REFUSED] = 1.0


def _latch(world: World, stack: ExitStack) -> None:
    KillSwitch(world.home).pull("smoke", "command")


def _damage(world: World, stack: ExitStack) -> None:
    copy = world.home.parent / "damaged"
    copy.mkdir()
    for file in world.bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "policy.onnx").write_bytes((copy / "policy.onnx").read_bytes()[:-1] + b"x")
    world.bundle = copy


def _at(date: dt.date, hour: int) -> Break:
    instant = dt.datetime(date.year, date.month, date.day, hour, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))

    def moved(world: World, stack: ExitStack) -> None:
        world.now_ns = int(instant.timestamp()) * 10**9

    return moved


def _another_journal(world: World, _: ExitStack) -> None:
    """The journal of a session that began under other limits."""
    scene = world.scene()
    loose = load_live(ROOT / "configs" / "live_rehearsal.yaml", [*world.settings(), "limits={max_positions: 1}"])
    Journal(loose.journal("live"), identity_of(loose, "live", scene.bundle)).close()


def _set(*overrides: str) -> Break:
    return lambda world, stack: world.overrides.extend(overrides)


def _bundle(name: str) -> Break:
    def swap(world: World, stack: ExitStack) -> None:
        world.bundle = world.bundle.parent / name

    return swap


def _address_service(answer: str) -> Break:
    """A service that answers with an address, as a real one does."""

    def give(world: World, stack: ExitStack) -> None:
        body = answer.encode()
        service = Service()
        handler: Any = service.server.RequestHandlerClass

        def answered(self: Any) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        handler.do_GET = answered
        stack.callback(service.close)
        world.overrides += ["broker.static_ip=203.0.113.7", f"broker.address_service={service.address}"]

    return give


def _call(act: Callable[[World], object]) -> Break:
    return lambda world, stack: world.stage.call(lambda: act(world))


def _service(number: int, status: int) -> Break:
    def fail(world: World, stack: ExitStack) -> None:
        world.services[number].status = status

    return fail


def _no_token(world: World, stack: ExitStack) -> None:
    world.token = ""


# What is wrong: which check finds it, how, with which words, and which words mend it.
CROSSES: dict[str, tuple[str, Break, str, str]] = {
    "a latched switch": ("kill switch", _latch, "smoke", "--release"),
    "a loop that runs": (
        "account lock",
        lambda world, stack: stack.enter_context(AccountLock(world.home, "live", {})),
        "runs a loop",
        "finsense kill",
    ),
    "a home that cannot be written": ("disk", _unwritable, "cannot be written", "home"),
    "a broken file of rates": ("request rates", _broken_rates, "rates2.db", "move"),
    "a damaged bundle": ("bundle", _damage, "policy.onnx", "export it again"),
    "no bundle": ("bundle", _bundle("nowhere"), "nowhere", "bundle"),
    "a bundle that was never validated": ("validation", _bundle("unproven"), "no validation result", "finsense train"),
    "limits that leave no room": (
        "limits",
        _set("limits={max_position_fraction: 0.02, min_position_fraction: 0.01}"),
        "do not go together",
        "limits",
    ),
    "a weekend": ("calendar", _at(dt.date(2026, 7, 18), 11), "the next one is 2026-07-20", "start again"),
    "a holiday": ("calendar", _at(dt.date(2026, 10, 2), 11), "Gandhi", "start again"),
    "a session whose hours are unknown": ("calendar", _at(dt.date(2026, 11, 8), 11), "not known", "finsense"),
    "the end of the known calendar": ("calendar", _at(dt.date(2027, 1, 4), 11), "2026-12-31", "pip install"),
    "a session that is over": ("calendar", _at(DAY, 16), "ended at 15:30", "start again"),
    "a clock that is wrong": ("clock", _wrong_clock, "+59.5 s", "timedatectl"),
    "a broker that does not answer": (
        "clock",
        _set("broker.root=http://127.0.0.1:9", "broker.stream_root=ws://127.0.0.1:9"),
        "does not answer",
        "internet",
    ),
    "the journal of another session": ("journal", _another_journal, "rules differ", "another `name`"),
    "no login": ("token", _no_token, "no access token", "finsense broker login"),
    "a login that is dead": (
        "token",
        _call(lambda world: world.stage.rest.access_tokens.clear()),
        "TokenException",
        "finsense broker login",
    ),
    "an unknown symbol": ("instruments", _set("symbols=[SIMA,SIMX]"), "SIMX is not among", "symbols"),
    "a list of yesterday": ("instruments", _yesterdays_list, "is not today's", "symbols"),
    "a list that is not made yet": ("instruments", _at(DAY, 7), "is made by", "start later"),
    "a warm-up that is too short": ("warm-up", _fewer_sessions, "warm-up needs", "out of"),
    "no history at all": (
        "warm-up",
        lambda world, stack: setattr(world.stage.rest, "_candles", lambda *asked: []),
        "no candle",
        "archive",
    ),
    "a stream that refuses": ("ticks", _silent_stream, "refuses", "login"),
    "ticks that are old": ("ticks", _at(DAY, 11), "no trade of SIMA", "stale_s"),
    "another address": ("static address", _address_service("198.51.100.1"), "registered is 203.0.113.7", "register"),
    "an address service that answers a page": (
        "static address",
        _address_service("<html>"),
        "no address",
        "address_service",
    ),
    "an address of six": ("static address", _address_service("2001:db8::1"), "IPv6", "ipv6"),
    "too little money": ("funds", _set("balance=500000"), "200,000.00 rupees at the broker", "pay in"),
    "positions that no journal knows": ("positions", _orders, "'SIMA': 5", "close them"),
    "an alarm channel that fails": ("alarm channels", _service(0, 500), "did not take a test alarm", "webhooks"),
    "an alarm channel without its secret": (
        "alarm channels",
        _set("alarms.webhooks=['secret:main.url']"),
        "no main.url",
        "finsense secrets set main.url",
    ),
    "a heartbeat that fails": ("heartbeat", _service(1, 404), "did not take a sign of life", "heartbeat.url"),
}

WARNINGS: dict[str, tuple[str, Break, str, str]] = {
    "a bundle with alarms": ("validation", _bundle("alarmed"), "never trades", "model card"),
    "symbols it never saw": ("validation", _bundle("foreign"), "SIMA, SIMB", "backtest"),
    "a loosened preset": (
        "limits",
        _set("limits={preset: small_account, max_positions: 9}"),
        "9 instead of 4",
        "limits",
    ),
    "limits it was not trained under": ("limits", _set("limits.max_positions=1"), "tighter", "train"),
    "a special session": ("calendar", _at(dt.date(2026, 2, 1), 11), "weekend session", "hours"),
    "holes in the history": ("warm-up", _holes, "missing", "normal"),
    "an address that is not configured": (
        "static address",
        _set("broker={kind: kite, api_key: x}"),
        "static_ip",
        "live.yaml",
    ),
    "an address that nobody tells": ("static address", _set("broker.static_ip=1.2.3.4"), "address_service", "IPv4"),
    "no alarm channel": ("alarm channels", _set("alarms.webhooks=[]"), "log and the journal alone", "webhooks"),
    "no heartbeat": ("heartbeat", _set("heartbeat=null"), "nobody is told", "heartbeat"),
}


@pytest.mark.parametrize(("name", "damage", "words", "mend"), CROSSES.values(), ids=CROSSES.keys())
def test_what_is_wrong_is_a_cross(world: World, name: str, damage: Break, words: str, mend: str) -> None:
    found(world, name, damage, words, mend, State.CROSS)


@pytest.mark.parametrize(("name", "damage", "words", "mend"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_should_be_known_is_a_warning(world: World, name: str, damage: Break, words: str, mend: str) -> None:
    found(world, name, damage, words, mend, State.WARNING)


def found(world: World, name: str, damage: Break, words: str, mend: str, state: State) -> None:
    with ExitStack() as stack:
        damage(world, stack)
        (check,) = world.look(name)
    assert check.state is state, check
    assert words in check.text, check
    assert mend in check.mend, check
    assert green([check]) == (state is State.WARNING)


def test_every_check_has_a_failure_of_its_own(world: World) -> None:
    scene = world.scene()
    broken = {name for name, *_ in CROSSES.values()}
    assert broken == set(wanted_checks(scene.setup, "live", FEED, TRADING))


def test_a_full_disk_is_a_cross(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for least, state in (("_LEAST_BYTES", State.CROSS), ("_WANTED_BYTES", State.WARNING)):
        with monkeypatch.context() as patch:
            patch.setattr(f"finsense.live.checks.local.{least}", 1 << 62)
            (check,) = world.look("disk")
        assert check.state is state


@contextmanager
def journal(world: World, trades: list[tuple[str, int]]) -> Iterator[Journal]:
    """The journal of a session that bought: an order of ours at the broker, and what the journal knows of it."""
    setup = world.scene().setup
    with Journal(setup.journal("live"), identity_text(mode="live")) as made:
        for number, (symbol, shares) in enumerate(trades, 1):
            request = OrderRequest(f"fs{number}", symbol, "BUY", shares, "MARKET", "MIS", market_protection=-1)
            made.note(request.tag, "intent", intent_body(request, "bar", number), world.stage.clock.now_ns())
        yield made


def test_the_journal_is_compared_with_the_broker(world: World) -> None:
    with journal(world, [("SIMA", 5)]):
        (check,) = world.look("positions")
        assert check.state is State.OK, check
        request = OrderRequest("fs1", "SIMA", "BUY", 5, "MARKET", "MIS", market_protection=-1)
        world.rest().place(request)
        (check,) = world.look("positions")
        assert check.state is State.OK, "our order filled after the last line of the journal: the start will read it"
        world.rest().place(OrderRequest("byhand", "SIMA", "BUY", 2, "MARKET", "MIS", market_protection=-1))
        (check,) = world.look("positions")
        assert check.state is State.CROSS
        assert "+5" in check.text
        assert "+7" in check.text
        assert "finsense reconcile" in check.mend


def test_a_check_that_cannot_look_is_a_cross() -> None:
    def broken(scene: Scene) -> Any:
        raise KeyError("what")

    (check,) = carry_out(Scene(None, Path("x"), "paper", FastClock(0, 0.0), str), {"odd": broken})  # type: ignore[arg-type]
    assert check.state is State.CROSS
    assert "KeyError" in check.text


def test_a_recorded_history_is_looked_at(world: World, markets: list[Bars], tmp_path: Path) -> None:
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "symbol": bars.symbol,
                "time": pd.to_datetime(bars.time_ns, utc=True),
                **{name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")},
            }
        )
        for bars in markets
    ]
    path = tmp_path / "bars.parquet"
    pd.concat(frames).to_parquet(path)
    world.mode = "paper"
    world.overrides += [f"feed={{kind: replay, path: {path}, from: {DAY}}}", "broker={kind: paper}"]
    (check,) = world.look("warm-up")
    assert check.state is State.OK, check
    world.overrides[-2] = f"feed={{kind: replay, path: {path}, from: {markets[0].first_date}}}"
    (check,) = world.look("warm-up")
    assert check.state is State.CROSS
    assert "warm-up needs" in check.text


def test_the_command_says_it_in_lines_and_in_json(world: World, tmp_path: Path) -> None:
    """From the file to the exit code, on paper over a replay: no broker is asked."""
    from finsense.cli.main import app

    KillSwitch(world.home).pull("smoke", "command")
    path = tmp_path / "live.yaml"
    text = f"{{name: x, account: main, home: {world.home}, bundle: {world.bundle}, symbols: [SIMA], "
    path.write_text(text + f"feed: {{kind: replay, path: {tmp_path}/none.parquet}}}}")
    told = CliRunner().invoke(app, ["preflight", str(path)])
    assert told.exit_code == PREFLIGHT
    assert "✗ kill switch" in told.stdout
    assert f"finsense kill {path} --release" in told.stdout
    told = CliRunner().invoke(app, ["preflight", str(path), "--json"])
    answer = json.loads(told.stdout)
    assert (answer["green"], answer["mode"], told.exit_code) == (False, "paper", PREFLIGHT)
    assert {row["name"]: row["state"] for row in answer["checks"]}["kill switch"] == "cross"
