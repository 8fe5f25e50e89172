"""Fixtures that several laws share."""

from pathlib import Path

import pytest

SHARED_NSE = Path(__file__).resolve().parents[2] / "shared" / "data" / "nse"


@pytest.fixture(scope="session")
def shared_nse() -> Path:
    """The folder of real NSE bars beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_NSE.is_dir():
        pytest.skip(f"real NSE data is not beside this checkout (looked for {SHARED_NSE.name} in ../shared/data)")
    return SHARED_NSE
