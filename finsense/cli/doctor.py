"""`finsense doctor`: is this machine ready, and if not, which command mends it."""

import datetime as dt
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer
from rich.console import Console

from finsense import __version__
from finsense.cli.errors import RUNTIME
from finsense.cli.options import AsJson, print_json
from finsense.market.calendar import IST, nse_calendar
from finsense.market.costs import schedule_index

_OK, _WARNING, _FAILED = "ok", "warning", "failed"
_MARKS = {_OK: "[green]✓[/]", _WARNING: "[yellow]![/]", _FAILED: "[red]✗[/]"}
_BASE = ("numpy", "numba", "pandas", "pyarrow", "pydantic", "onnxruntime")
_TRAIN = ("torch", "gymnasium", "stable-baselines3", "sb3-contrib", "onnx", "onnxscript", "tensorboard", "matplotlib")
_FREE_BYTES_WANTED = 2 * 1024**3
_CALENDAR_DAYS_WANTED = 14


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, and what mends it."""

    name: str
    status: str
    detail: str
    fix: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Check Python, packages, kernel cache, disk, and the dates that calendar and charges know; exit 1 on a cross."""
    now = dt.datetime.now(dt.UTC).astimezone(IST)
    checks = [_python(), *_packages(), _kernel_cache(), _disk(), _calendar(now.date()), _charges(now.date())]
    failed = any(check.status == _FAILED for check in checks)
    if as_json:
        print_json({"version": __version__, "ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        console = Console()
        console.print(f"finsense {__version__} on {platform.platform()}, {now:%Y-%m-%d %H:%M} IST")
        for check in checks:
            console.print(f"{_MARKS[check.status]} {check.name}: {check.detail}", highlight=False)
            if check.fix:
                console.print(f"    {check.fix}", highlight=False, markup=False)
    if failed:
        raise typer.Exit(RUNTIME)


def _python() -> Check:
    return Check("python", _OK, f"{platform.python_version()}, {os.cpu_count()} processors")


def _packages() -> list[Check]:
    def check(name: str, packages: tuple[str, ...], missing_status: str, fix: str) -> Check:
        found, missing = [], []
        for package in packages:
            try:
                found.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                missing.append(package)
        if missing:
            return Check(name, missing_status, f"missing {', '.join(missing)}", fix)
        return Check(name, _OK, ", ".join(found))

    return [
        check("live and paper", _BASE, _FAILED, "pip install -c constraints.txt finsense"),
        check("training", _TRAIN, _WARNING, "pip install -c constraints.txt 'finsense[train]'"),
    ]


def _kernel_cache() -> Check:
    folder = Path(os.environ.get("NUMBA_CACHE_DIR", ""))
    if not folder.name or not os.access(folder, os.W_OK):
        return Check(
            "kernel cache",
            _WARNING,
            "not writable: kernels are compiled anew at every start",
            "export NUMBA_CACHE_DIR=~/.cache/finsense-kernels",
        )
    kernels = len(list(folder.rglob("*.nbc")))
    return Check(
        "kernel cache", _OK, f"{kernels} compiled kernels" if kernels else "empty: the first run compiles them"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1024**3:.1f} GiB free here"
    if free < _FREE_BYTES_WANTED:
        return Check("disk", _WARNING, f"{text}, at least 2 wanted", "free some space before training")
    return Check("disk", _OK, text)


def _calendar(today: dt.date) -> Check:
    last = nse_calendar().last_date
    text = f"sessions known to {last}"
    if last < today:
        return Check("calendar", _FAILED, f"{text}, today is {today}", "update finsense: pip install -U finsense")
    if (last - today).days < _CALENDAR_DAYS_WANTED:
        return Check("calendar", _WARNING, text, "update finsense soon: the next holiday list is needed")
    return Check("calendar", _OK, text)


def _charges(today: dt.date) -> Check:
    schedule_index(today)
    return Check("charges", _OK, f"NSE and Zerodha schedule for {today}")
