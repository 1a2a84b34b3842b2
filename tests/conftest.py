"""The one fixture that several files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def datasets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set, ready for stage 2."""
    from stage2 import make_ready  # it loads RecBole, which most files do without

    folder = tmp_path_factory.mktemp("datasets")
    make_ready(folder)
    return folder
