import sys

import pytest

from node.learning import torchvision_import
from node.learning.torchvision_import import import_torchvision


def test_data_sets_can_be_imported_beside_any_torch() -> None:
    assert import_torchvision().datasets.CIFAR10.__name__ == "CIFAR10"
    assert import_torchvision() is sys.modules["torchvision"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ImportError("not installed")])
def test_other_errors_pass_through(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(torchvision_import.importlib, "import_module", fail)
    with pytest.raises(type(error), match=str(error)):
        import_torchvision()
