"""The notebook of ``docs/`` runs from top to bottom, and what it predicts is right."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from-images-to-predictions.ipynb"


def test_it_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_it_goes_from_images_to_right_predictions(tmp_path):
    """In a kernel of this environment, whatever kernels are installed."""
    notebook = nbformat.read(NOTEBOOK, 4)
    manager = AsyncKernelManager()
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = ["".join(one.get("text", "") for one in cell.get("outputs", ())) for cell in notebook.cells]
    (scores,) = [text for text in said if "'auc'" in text]
    assert float(re.search(r"'auc': ([\d.]+)", scores)[1]) > 0.9
    (predictions,) = [text for text in said if text.startswith("plain [")]
    assert [line.split()[0] for line in predictions.splitlines()] == ["plain", "dotted", "dotted"]
    assert any("What it must not be used for" in text for text in said)
