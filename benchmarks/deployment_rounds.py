"""Seconds a round takes with real processes, TLS and node keys: our courier and agent, beside a stock Flower ClientApp.

Both run in one federation on this machine, one after the other, with the same SuperLink, SuperNodes and executors, the same
features and five local epochs. The stock app does what Flower's examples do: it imports torch, reads its features, trains and
evaluates in the process that Flower starts for each message; once with evaluation in the same message, once with a message of its
own, as Flower's strategies send it. The first round is left out.

    python -m benchmarks.deployment_rounds --hospitals 3 --rounds 8

With --out DIR it writes DIR/deployment_rounds.json. Source of the stock loop: Flower's quickstart example, strategy FedAvg.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.outcome import Headline, Outcome, Table, publish, spread
from client.phantom import make_phantoms
from deploy.federation import load
from deploy.flower import COMPLETED, Flower
from deploy.processes import free_port
from deploy.runs import follow

FEATURES, EPOCHS, BATCH = 512, 5, 32
STOCK, OURS = "stock, torch in the ClientApp, 1 message", "courier and agent, 1 message"

_PYPROJECT = """[project]
name = "stock"
version = "0.1.0"
description = "A stock Flower app"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "stock_server:app"
clientapp = "stock_client:app"

[tool.flwr.app.config]
data = ""
out = ""
rounds = 3
folded = true
"""

_SERVER = """
import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    weight, bias, seconds = np.zeros((2, %(features)d), np.float32), np.zeros(2, np.float32), []
    for number in range(config["rounds"]):
        start = time.perf_counter()
        for kind in ("train",) if config["folded"] else ("train", "evaluate"):
            arrays = ArrayRecord({"weight": Array(weight), "bias": Array(bias)})
            messages = [
                Message(
                    RecordDict({"arrays": arrays, "config": ConfigRecord({"data": config["data"]})}),
                    dst_node_id=node,
                    message_type=kind,
                    group_id=str(number),
                )
                for node in grid.get_node_ids()
            ]
            replies = list(grid.send_and_receive(messages, timeout=300))
            if kind == "train":
                weight = np.mean([one.content["arrays"]["weight"].numpy() for one in replies], axis=0)
                bias = np.mean([one.content["arrays"]["bias"].numpy() for one in replies], axis=0)
        seconds.append(time.perf_counter() - start)
    with open(config["out"], "w") as file:
        json.dump(seconds, file)
""" % {"features": FEATURES}

_CLIENT = """
import numpy as np
import torch
import torchvision  # noqa: F401  the model comes from there in the examples
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    features, labels = _data(message)
    head = _head(message)
    with torch.no_grad():
        right = int((head(features).argmax(1) == labels).sum())
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    for _ in range(%(epochs)d):
        for rows in torch.randperm(len(labels)).split(%(batch)d):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(features[rows]), labels[rows]).backward()
            optimizer.step()
    metrics = MetricRecord({"num-examples": len(labels), "right": right})
    return Message(RecordDict({"arrays": ArrayRecord(head.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    features, labels = _data(message)
    with torch.no_grad():
        right = int((_head(message)(features).argmax(1) == labels).sum())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": len(labels), "right": right})}), reply_to=message)


def _data(message):
    with np.load(message.content["config"]["data"]) as file:
        return torch.from_numpy(file["features"]), torch.from_numpy(file["labels"])


def _head(message):
    head = torch.nn.Linear(%(features)d, 2)
    head.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return head
""" % {"epochs": EPOCHS, "batch": BATCH, "features": FEATURES}


class Federation:
    """A coordinator and its hospitals on this machine, by the commands that people give."""

    def __init__(self, folder: Path, hospitals: int, images: int) -> None:
        self.folder, self.path = folder, folder / "federation"
        self.phantoms = make_phantoms(folder / "phantoms", hospitals=hospitals, images=images, size_px=64)
        self._environment = {**os.environ, "CONSILIUM_FEDERATION": str(self.path)}

    def say(self, *words: object) -> str:
        command = [sys.executable, "-m", "cli.main", *map(str, words)]
        return subprocess.run(command, env=self._environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def up(self) -> None:
        ports = ("--port", free_port(), "--superlink-port", free_port())
        names = [word for name in self.phantoms for word in ("--hospital", name)]
        self.say("coordinator", "provision", "--name", "benchmark", "--host", "localhost", *ports, *names)
        for name in self.phantoms:
            kit = self.path / "kits" / name
            self.say("hospital", "keygen", "--kit", kit)
            self.say("coordinator", "provision", "--register", f"{name}={kit / 'node_key.pub'}")
        self.say("coordinator", "up", "--detach")
        for name, images in self.phantoms.items():
            kit = self.path / "kits" / name
            content = {"name": name, "data": {"folder": str(images)}, "device": "cpu", "policy": {"approve": "auto"}}
            own = {"cache": str(self.folder / f"cache-{name}"), "state": str(self.folder / f"state-{name}")}
            (kit / "hospital.yaml").write_text(yaml.safe_dump({**content, **own}), encoding="utf-8")
            self.say("hospital", "join", "--detach", "--kit", kit)

    def down(self) -> None:
        for name in self.phantoms:
            self.say("hospital", "stop", "--kit", self.path / "kits" / name)
        self.say("coordinator", "stop")

    def ours(self, rounds: int) -> list[float]:
        """Seconds of each round of fedavg."""
        job = {
            "name": "benchmark",
            "classes": ["normal", "opacity"],
            "backbone": {"name": "resnet18", "weights": "random"},
            "image": {"size": 64},
            "features": {"stages": "last", "mirror": False},
            "method": {"name": "fedavg", "rounds": rounds, "local_epochs": EPOCHS, "batch_size": BATCH},
            "quorum": {"min_hospitals": len(self.phantoms)},
        }
        file = self.folder / "job.yaml"
        file.write_text(yaml.safe_dump(job), encoding="utf-8")
        self.say("coordinator", "run", file)
        [run] = (self.path / "runs").glob("benchmark-*")
        lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
        run.rename(self.folder / f"run-{time.time_ns()}")
        return [float(line["seconds"]) for line in lines]

    def stock(self, rounds: int, folded: bool) -> list[float]:
        """Seconds of each round of the stock app."""
        app, out = self.folder / "stock", self.folder / "stock.json"
        app.mkdir(exist_ok=True)
        for name, text in {
            "pyproject.toml": _PYPROJECT,
            "stock_server.py": _SERVER,
            "stock_client.py": _CLIENT,
        }.items():
            (app / name).write_text(text, encoding="utf-8")
        rng = np.random.default_rng(0)
        data = self.folder / "features.npz"
        examples = 7 * len(list(next(iter(self.phantoms.values())).rglob("*.png"))) // 10
        np.savez(data, features=rng.normal(size=(examples, FEATURES)).astype("f4"), labels=rng.integers(0, 2, examples))
        config = self.folder / "stock.toml"
        words = {"data": str(data), "out": str(out), "rounds": rounds, "folded": folded}
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in words.items()), encoding="utf-8")
        out.unlink(missing_ok=True)
        settings = load(self.path)
        flower = Flower(f"localhost:{settings.settings.superlink_port}", settings.ca, self.folder / "flower")
        outcome = follow(flower, self.folder, flower.run(app, config))
        if outcome.status != COMPLETED:
            raise SystemExit(f"the stock run ended as {outcome.status}: {outcome.failure}")
        return list(json.loads(out.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--images", type=int, default=400, help="images of each hospital")
    parser.add_argument("--out", type=Path, help="folder for deployment_rounds.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fed-", ignore_cleanup_errors=True) as temporary:
        federation = Federation(Path(temporary), options.hospitals, options.images)
        try:
            federation.up()
            federation.ours(2)  # features, and the first use of everything
            found = {
                STOCK: federation.stock(options.rounds, folded=True),
                OURS: federation.ours(options.rounds),
                "stock, torch in the ClientApp, 2 messages": federation.stock(options.rounds, folded=False),
            }
        finally:
            federation.down()
    publish(outcome_of(found, options.hospitals, options.rounds), options.out)


def outcome_of(found: dict[str, list[float]], hospitals: int, rounds: int) -> Outcome:
    """Seconds a round, without the first, and the ratio to the first client."""
    medians = {name: statistics.median(seconds[1:]) for name, seconds in found.items()}
    base, ours = medians[STOCK], medians[OURS]
    rows = tuple((name, medians[name], spread(seconds[1:]), medians[name] / base) for name, seconds in found.items())
    return Outcome(
        "deployment_rounds",
        "python -m benchmarks.deployment_rounds",
        (
            Table(
                f"A deployed round, {hospitals} hospitals, {rounds} rounds",
                ("client", "s a round: median", "least to greatest", "ratio to the first"),
                rows,
            ),
        ),
        (
            Headline(
                f"a deployed round of fedavg, {hospitals} hospitals, processes, TLS and node keys",
                f"{ours:.1f} s; {base:.1f} s with an app that imports torch for each message ({ours / base:.2f} times)",
            ),
        ),
        {"seconds": found},
    )


if __name__ == "__main__":
    main()
