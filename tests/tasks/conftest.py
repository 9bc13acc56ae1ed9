import pytest

from tests.tasks.folders import make_images


@pytest.fixture
def folder(tmp_path):
    """Holds `images`, ten classes of three images, each class of one shade of grey."""
    make_images(tmp_path / "images")
    return tmp_path
