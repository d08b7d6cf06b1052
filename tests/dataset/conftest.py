import pytest

from tests.pseudo_datasets import write_source


@pytest.fixture
def source(tmp_path):
    """The folder of a small data set of the user's own."""
    return write_source("custom", tmp_path / "source")
