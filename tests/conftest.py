"""Fixtures that several laws share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The gate tries the same examples at every run, so that it judges the change and not the draw; `make fuzz` draws anew.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("repeatable")

SHARED_NSE = Path(__file__).resolve().parents[2] / "shared" / "data" / "nse"


@pytest.fixture(scope="session")
def shared_nse() -> Path:
    """The folder of real NSE bars beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_NSE.is_dir():
        pytest.skip(f"real NSE data is not beside this checkout (looked for {SHARED_NSE.name} in ../shared/data)")
    return SHARED_NSE


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the cache of the person who runs it."""
    os.environ["FINSENSE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
