import os
import socket
import stat
from pathlib import Path

import pytest

from client.agent_socket import give_to_group, held, is_serving, require_usable
from common.errors import ConfigError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "agent.sock"


def test_a_socket_s_folder_is_made_for_its_owner_only(path):
    with held(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_two_agents_do_not_share_a_path(path):
    with held(path), pytest.raises(ConfigError, match="another agent answers on"), held(path):
        pass
    with held(path):
        pass


def test_a_live_socket_is_left_alone_by_the_second(path):
    with held(path):
        path.touch()
        with pytest.raises(ConfigError), held(path):
            pass
        assert path.exists()
        path.unlink()


def test_a_file_left_by_a_killed_agent_is_removed(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    with held(path):
        assert not path.exists()


def test_what_is_no_socket_is_not_removed(path):
    path.parent.mkdir()
    path.write_text("somebody's notes")
    with pytest.raises(ConfigError, match="is no socket"), held(path):
        pass
    assert path.read_text() == "somebody's notes"


def test_the_file_goes_when_the_agent_goes(path):
    with held(path), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    assert not path.exists()


@pytest.mark.parametrize("text", ["agent.sock", f"/{'a' * 107}"])
def test_paths_that_no_socket_can_have(text):
    with pytest.raises(ConfigError, match="--socket"):
        require_usable(Path(text))
    require_usable(Path(f"/{'a' * 106}"))


def test_a_group_may_use_the_socket(path):
    with held(path), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        give_to_group(path, str(os.getgid()))
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getgid())
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o710


def test_a_folder_with_other_files_is_not_opened_to_a_group(path):
    path.parent.mkdir()
    (path.parent / "somebody-else.pid").touch()
    mode = path.parent.stat().st_mode
    with held(path), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(ConfigError, match="one of its own"):
            give_to_group(path, str(os.getgid()))
    assert path.parent.stat().st_mode == mode


def test_a_group_that_is_not_there(path):
    with held(path), pytest.raises(ConfigError, match="no group 'nobody-has-this'"):
        give_to_group(path, "nobody-has-this")


def test_nothing_serves_where_there_is_no_agent(path):
    assert not is_serving(path)
