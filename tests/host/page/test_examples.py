"""The clips that come with the pack: the page's player finds them under the name in the list."""

import urllib.error
from urllib.parse import quote

import pytest


@pytest.mark.parametrize("path", ["view", "api/view"])
def test_the_player_gets_the_clip(server, pack, path):
    from echoreel_pack.echoreel_core.pixel_actions.model.files import example_clips

    for name, file in example_clips().items():
        assert server.read(f"/{path}?filename={quote(name + ' [echoreel]')}&type=input&subfolder=") == file.read_bytes()


def test_other_files_are_the_hosts_business(server):
    assert server.read("/view?filename=clip.mp4&type=input")
    for name in ("moon walk [echoreel]", "../clip [echoreel]", "nothing.mp4"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            server.read(f"/view?filename={quote(name)}&type=input")
