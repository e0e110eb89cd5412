import shutil
from pathlib import Path

import pytest

from deploy.federation import Federation, Settings, save
from deploy.gateway import find_nginx
from deploy.processes import free_port


@pytest.fixture
def nginx() -> str:
    if shutil.which("nginx") is None and not Path("/usr/sbin/nginx").exists():
        pytest.skip("nginx is not installed (make nginx)")
    return find_nginx()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    settings = Settings(
        name="chest",
        host="localhost",
        port=free_port(),
        listen="127.0.0.1",
        superlink_port=free_port(),
        hospitals={"st-marys": None, "charite": None},
    )
    return save(tmp_path / "federation", settings)
