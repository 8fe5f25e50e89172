"""The one place where an optional extra is imported."""

from importlib import import_module
from types import ModuleType

from finsense.cli.errors import USAGE, refuse

_TRAINING = (
    "torch",
    "stable_baselines3",
    "sb3_contrib",
    "gymnasium",
    "onnx",
    "onnxscript",
    "tensorboard",
    "matplotlib",
    "optuna",
    "sklearn",
    "xgboost",
)


_DATA = ("yfinance", "curl_cffi", "requests")
_KITE = ("kiteconnect", "requests", "websockets", "aiohttp", "cryptography", "keyring")


def _missing(error: ModuleNotFoundError, what: str) -> None:
    """Refuse with the command that installs the extra; a missing module of our own is a fault and is raised."""
    name = (error.name or "").split(".")[0]
    for extra, modules in (("train", _TRAINING), ("data", _DATA), ("kite", _KITE)):
        if name in modules:
            refuse("extras", f"{what} needs `{error.name}`: pip install 'finsense[{extra}]'", USAGE)
    raise error


def agents(module: str) -> ModuleType:
    """A module of `finsense.agents`, of the extra [train]."""
    try:
        return import_module(f"finsense.agents.{module}")
    except ModuleNotFoundError as error:
        _missing(error, "training")
        raise


def environment_drivers() -> ModuleType:
    """`finsense.cli.environments`, of the extra [train]."""
    try:
        from finsense.cli import environments  # noqa: PLC0415  (the extra [train])
    except ModuleNotFoundError as error:
        _missing(error, "driving an environment")
        raise
    return environments


def rehearsal(module: str) -> ModuleType:
    """A module of `finsense.live.rehearsal`, of the extra [kite]."""
    try:
        return import_module(f"finsense.live.rehearsal.{module}")
    except ModuleNotFoundError as error:
        _missing(error, "a rehearsal")
        raise


def live(module: str) -> ModuleType:
    """A module of `finsense.live` that talks to a vendor, of the extra [kite] or [data]."""
    try:
        return import_module(f"finsense.live.{module}")
    except ModuleNotFoundError as error:
        _missing(error, "this feed or broker")
        raise
