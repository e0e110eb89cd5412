"""An API against its own OpenAPI description: schemathesis asks at random, and finds nothing."""

import contextlib
from collections.abc import Collection

import hypothesis
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup

from common.web.application import Site


def operations(site: Site):
    """Method and path of every operation, and what is said of it."""
    paths = site.app.openapi()["paths"]
    return [(f"{method.upper()} {path}", one) for path, by_method in paths.items() for method, one in by_method.items()]


def conforms(site: Site, examples: int, opaque: Collection[str] = ()) -> None:
    """Ask every operation so many times. opaque: operations whose body is bytes of which no schema says what they must be."""
    load_all_checks()
    access = site.rules.access
    own = {"host": "127.0.0.1", "Authorization": f"Bearer {access.token}"}
    schema = schemathesis.openapi.from_dict(site.app.openapi())
    schema.app = site.asgi
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        left_out = [
            one for one in CHECKS.get_all() if operation.label in opaque and one.__name__ == "positive_data_acceptance"
        ]
        for mode in schemathesis.GenerationMode:
            asked += _ask(
                operation.as_strategy(generation_mode=mode), examples, {"headers": own, "excluded_checks": left_out}
            )
    assert asked >= len(operations(site))


def _ask(cases: hypothesis.strategies.SearchStrategy, examples: int, options: dict) -> int:
    asked = 0

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases)
    def ask(case):
        nonlocal asked
        asked += 1
        try:
            case.call_and_validate(**options)
        except FailureGroup as group:
            raise AssertionError("\n".join(str(one) for one in group.exceptions)) from group

    with contextlib.suppress(
        hypothesis.errors.Unsatisfiable
    ):  # an operation without parameters cannot be asked wrongly
        ask()
    return asked
