"""A study's folder is that of one study: claimed once, found again, refused to all others."""

import pytest

from fpt_ray.errors import ConfigError
from fpt_ray.tracking.folder import claim_folder, folder_id


def test_a_folder_is_of_one_study(tmp_path):
    own = f"{tmp_path}/studies/s"
    assert folder_id(own) is None
    claim_folder(own, "a", begun=False)
    claim_folder(own, "a", begun=True)
    assert folder_id(own) == "a"
    with pytest.raises(ConfigError, match="holds another study of that name"):
        claim_folder(own, "b", begun=False)
    with pytest.raises(ConfigError, match="was begun in another workdir"):
        claim_folder(f"{tmp_path}/other/studies/s", "a", begun=True)
    assert folder_id(f"{tmp_path}/other/studies/s") is None
