"""Checks that ask the world beside the broker's account: clock, address, alarm channels, heartbeat."""

import ipaddress
import urllib.error
from email.utils import parsedate_to_datetime

from finsense.live.alarms import host_of, post_json
from finsense.live.checks import Checking, Finding, Scene, cross, ok, warning
from finsense.live.plain_http import ask
from finsense.live.secret_store import SecretError

_KITE = "https://api.kite.trade"
_PATIENCE_S = 7.0
# The header tells whole seconds.
_HALF_SECOND = 0.5
_SECOND_NS = 1_000_000_000


def clock_skew(scene: Scene) -> Finding:
    """Our clock against the one in the broker's answers."""
    root = scene.kite.root or _KITE
    asked_ns = scene.clock.now_ns()
    try:
        headers = ask(root, _PATIENCE_S, method="HEAD").headers
    except urllib.error.HTTPError as error:
        # A refusal has the time in it too.
        headers = error.headers
        error.close()
    except OSError as error:
        return cross(f"{root} does not answer: {error}", "mend the connection to the internet")
    answered_ns = scene.clock.now_ns()
    text = headers.get("Date")
    if text is None:
        return warning(f"{root} tells no time", "compare the clock yourself: timedatectl timesync-status")
    theirs_s = parsedate_to_datetime(text).timestamp() + _HALF_SECOND
    skew_s = (asked_ns + answered_ns) / 2 / _SECOND_NS - theirs_s
    doubt_s = _HALF_SECOND + (answered_ns - asked_ns) / 2 / _SECOND_NS
    allowed_s = scene.setup.gate.skew_s
    shown = f"our clock is {skew_s:+.1f} s from the broker's (± {doubt_s:.1f} s), allowed {allowed_s:g}"
    if abs(skew_s) - doubt_s > allowed_s:
        return cross(shown, "sudo timedatectl set-ntp true")
    return ok(shown)


def static_address(scene: Scene) -> Finding:
    """Orders will leave from the address that is registered."""
    broker = scene.kite
    if scene.setup.is_rehearsal and broker.static_ip is None:
        return ok("a rehearsal takes orders from anywhere")
    if broker.static_ip is None:
        return warning(
            "no `broker.static_ip` is given, so it was not compared: orders from another address than the one that is "
            "registered at developers.kite.trade are refused",
            f"write the registered address into {scene.path}",
        )
    if broker.address_service is None:
        return warning(
            f"no `broker.address_service` is given, so our address was not compared with {broker.static_ip}",
            f"give {scene.path} one that answers the IPv4 address it was asked from as plain text",
        )
    try:
        text = ask(broker.address_service, _PATIENCE_S).body.decode(errors="replace").strip()
        found = ipaddress.ip_address(text)
    except OSError as error:
        return cross(f"{host_of(broker.address_service)} does not answer: {error}", "name another address_service")
    except ValueError:
        return cross(
            f"{host_of(broker.address_service)} answers {text[:60]!r}, which is no address",
            "name an address_service that answers with the address alone",
        )
    if found.version != 4:
        return cross(
            f"we leave by IPv6 ({found}), and an IPv4 address is registered", "sysctl net.ipv6.conf.all.disable_ipv6=1"
        )
    if found != broker.static_ip:
        return cross(
            f"orders would leave from {found}, registered is {broker.static_ip}: the broker would refuse them",
            "register this address at developers.kite.trade, or go back to the registered one (VPN, another line)",
        )
    return ok(f"{found}, as registered")


def alarm_channels(scene: Scene) -> Finding:
    """Every channel takes a test alarm."""
    alarms = scene.setup.alarms
    if not alarms.webhooks:
        return warning("alarms go to the log and the journal alone", f"give {scene.path} `alarms.webhooks`")
    body = {"account": scene.setup.account, "kind": "test", "text": f"preflight of {scene.setup.name}", "facts": {}}
    look = cross if scene.live else warning
    for channel in alarms.webhooks:
        try:
            address = scene.address(channel)
        except SecretError as error:
            return look(str(error), f"finsense secrets set {channel.partition(':')[2]}")
        try:
            post_json(address, {**body, "time_ns": scene.clock.now_ns()}, alarms.timeout_s)
        except (OSError, ValueError) as error:
            return look(
                f"{host_of(address)} did not take a test alarm: {type(error).__name__}", "look at `alarms.webhooks`"
            )
    return ok(f"{len(alarms.webhooks)} channels took a test alarm")


def heartbeat(scene: Scene) -> Finding:
    """The service that watches over us takes a sign of life."""
    settings = scene.setup.heartbeat
    if settings is None:
        return warning("nobody is told when this machine dies", f"give {scene.path} a `heartbeat`")
    look = cross if scene.live else warning
    try:
        address = scene.address(settings.url)
    except SecretError as error:
        return look(str(error), f"finsense secrets set {settings.url.partition(':')[2]}")
    content = b"" if settings.method == "POST" else None
    try:
        ask(address, settings.timeout_s, method=settings.method, content=content)
    except (OSError, ValueError) as error:
        return look(
            f"{host_of(address)} did not take a sign of life: {type(error).__name__}", "look at `heartbeat.url`"
        )
    return ok(f"{host_of(address)} takes signs of life")


CHANNELS: dict[str, Checking] = {"alarm channels": alarm_channels, "heartbeat": heartbeat}
BROKER_SIDE: dict[str, Checking] = {"clock": clock_skew}
ADDRESS: dict[str, Checking] = {"static address": static_address}
