from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import FederationError
from deploy.federation import Federation, forget_hospital, take_key
from deploy.flower import Flower, Node
from deploy.node_key import make_node_key
from deploy.registration import Registering, registrations, synchronise


@dataclass
class SuperLink:
    """Knows keys by node, and never takes one twice, as Flower does."""

    nodes: dict[int, str] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)
    names: list[str] = field(default_factory=list)

    def register(self, public_key: Path, name: str) -> int:
        key = public_key.read_text().split()[1]
        if key in self.ever:
            raise FederationError("[code: 23] Public key already in use.")
        self.ever.add(key)
        self.names.append(name)
        self.nodes[len(self.ever)] = key
        return len(self.ever)

    def unregister(self, node_id: int) -> None:
        del self.nodes[node_id]

    def supernodes(self) -> list[Node]:
        return [Node(node, "registered") for node in self.nodes]


@pytest.fixture
def superlink() -> Any:
    return SuperLink()


@pytest.fixture
def with_keys(federation: Federation, tmp_path: Path) -> Federation:
    for name in federation.settings.hospitals:
        make_node_key(tmp_path / name)
        federation = take_key(federation, name, tmp_path / f"{name}.pub")
    return federation


def test_keys_are_registered_once(with_keys: Federation, superlink: Any) -> None:
    assert len(synchronise(with_keys, superlink)) == 2
    assert superlink.names == ["st-marys", "charite"]
    assert {name: one.node_id for name, one in registrations(with_keys).items()} == {"st-marys": 1, "charite": 2}
    assert synchronise(with_keys, superlink) == []


def test_a_hospital_without_a_key_is_left_out(federation: Federation, superlink: Any) -> None:
    assert synchronise(federation, superlink) == []
    assert superlink.nodes == {}


def test_a_new_key_replaces_the_old_one(with_keys: Federation, superlink: Any, tmp_path: Path) -> None:
    synchronise(with_keys, superlink)
    make_node_key(tmp_path / "new")
    after = take_key(with_keys, "charite", tmp_path / "new.pub", replace=True)
    said = synchronise(after, superlink)
    assert [line.split(":")[0] for line in said] == ["charite", "charite"]
    assert list(superlink.nodes) == [1, 3]


def test_a_removed_hospital_is_unregistered(with_keys: Federation, superlink: Any) -> None:
    synchronise(with_keys, superlink)
    after = forget_hospital(with_keys, "st-marys")
    assert "no longer registered" in synchronise(after, superlink)[0]
    assert list(superlink.nodes) == [2]
    assert list(registrations(after)) == ["charite"]


def test_a_new_database_is_told_everything_again(with_keys: Federation, superlink: Any) -> None:
    synchronise(with_keys, superlink)
    assert len(synchronise(with_keys, SuperLink())) == 2  # type: ignore[arg-type]


def test_a_key_that_flower_will_not_take_back_is_explained(
    with_keys: Federation, superlink: Any, tmp_path: Path
) -> None:
    synchronise(with_keys, superlink)
    gone = forget_hospital(with_keys, "st-marys")
    synchronise(gone, superlink)
    back = replace(gone, settings=with_keys.settings)
    back.key("st-marys").write_text((tmp_path / "st-marys.pub").read_text())
    with pytest.raises(FederationError, match=r"cannot register st-marys.*the hospital must make a new one"):
        synchronise(back, superlink)


def test_what_fails_at_the_start_is_logged_and_holds_nothing_up(
    federation: Federation, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    class Broken(Flower):
        def supernodes(self) -> list[Node]:
            raise FederationError("not there")

    registering = Registering(federation, Broken("x:1", None, tmp_path))
    registering.done()
    registering.wait(10)
    assert registering.done()
    assert "could not be registered: not there" in caplog.text
