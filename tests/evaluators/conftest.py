import pytest
from trees import register


@pytest.fixture
def registered(tracking):
    """(run id, ModelInfo) of models:/tree/1, an over-fitted decision tree with lineage."""
    return register()
