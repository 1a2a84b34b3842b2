"""The fixtures that several files share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded, as common/start.py does
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too
settings.load_profile("any machine")


@pytest.fixture(scope="module")
def datasets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set, ready for stage 2."""
    from stage2_helpers import make_ready  # it loads RecBole, which most files do without

    folder = tmp_path_factory.mktemp("datasets")
    make_ready(folder)
    return folder


@pytest.fixture(scope="session")
def small_suite(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The suite of tests/small_suite.py, run once; a test that changes its files puts them back."""
    from small_suite import run_small_suite

    return run_small_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a suite with results (tests/helpers/reported.py)."""
    from reported import write_results

    return write_results(tmp_path_factory.mktemp("results"))
