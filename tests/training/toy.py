"""A small real task: a network with dropout, a tied weight and a buffer learns a product of two numbers."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from motionrag.training.loop import train
from motionrag.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """The network."""

    width: int = 16
    """Of its hidden layers."""
    dropout: float = 0.2
    """Share of hidden numbers set to zero."""
    noise: float = 0.05
    """Added to the input."""


class Network(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.table = nn.Embedding(4, width)
        self.enter = nn.Linear(8, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.again = self.blocks[0]  # tied
        self.norm = nn.BatchNorm1d(width)  # a buffer that training changes
        self.dropout = nn.Dropout(dropout)
        self.leave = nn.Linear(width, 1)

    def forward(self, x, kind):
        x = self.enter(x) + self.table(kind)
        for block in (*self.blocks, self.again):
            x = x + self.dropout(nn.functional.gelu(block(x)))
        return self.leave(self.norm(x))


class ToyTask:
    Settings = ToySettings

    def __init__(self, settings=None, device="cpu", report=None):
        if report is not None:
            report(7, 7)
        self.settings = settings or ToySettings()
        torch.manual_seed(0)
        self.model = Network(self.settings.width, self.settings.dropout).to(device)

    def batch(self, size, generator):
        x = torch.randn(size, 8, generator=generator)
        kind = torch.randint(4, (size,), generator=generator)
        return {"x": x, "of": (kind, x[:, :1] * x[:, 1:2])}

    def loss(self, batch, generator):
        noise = torch.randn(batch["x"].shape, generator=generator, device=generator.device)
        kind, target = batch["of"]
        made = self.model(batch["x"] + self.settings.noise * noise, kind)
        error = (made.float() - target).square().mean()
        return error, {"root": error.detach().sqrt(), "one": 1.0}

    def state(self):
        """The weights, each tied one once."""
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def sample(self, folder, step):
        assert not self.model.training
        save_file(self.state(), folder / f"step-{step:06d}.safetensors")
        return {"sampled": float(step)}

    def export(self, folder):
        (folder / "inner").mkdir()
        save_file(self.state(), folder / "inner" / "weights.safetensors")


class RankTask:
    """One weight that each process pulls towards its own rank, from where only that process starts."""

    def __init__(self):
        self.rank = float(os.environ["RANK"])
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.model.weight, 5 - 10 * self.rank)
        self.first = None

    def batch(self, size, generator):
        return torch.full((size, 1), self.rank)

    def loss(self, batch, generator):
        if self.first is None:
            self.first = self.model.weight.item()
        return (self.model(torch.ones_like(batch)) - batch).square().mean(), {}

    def sample(self, folder, step):
        pass

    def export(self, folder):
        (folder / "weight.json").write_text(json.dumps(self.model.weight.item()))


def main(kind, out, settings):
    """Train in a process of its own; the last line says what the weights are."""
    task = RankTask() if kind == "rank" else ToyTask(ToySettings(**json.loads(kind)))
    train(task, TrainSettings(**json.loads(settings)), Path(out))
    if kind == "rank":
        values = (task.rank, task.first, task.model.weight.item())
        (Path(out) / f"rank-{int(task.rank)}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
