"""A convolutional network on text, trained here: from which module of Python is a piece of code?"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convswap import Budget, convert, count, distill, fidelity, plan

pytestmark = pytest.mark.slow

MODULES = "_pydecimal turtle zipfile typing inspect tarfile".split()
WORDS = 4000  # the most frequent; others are one
LENGTH = 40  # words of a piece


class TextCnn(nn.Module):
    """Kim 2014: convolutions of three widths over embedded words, the largest answer of each."""

    def __init__(self, classes: int):
        super().__init__()
        self.num_classes = classes
        self.embed = nn.Embedding(WORDS, 128)
        self.convs = nn.ModuleList(nn.Conv1d(128, 100, k, padding=k // 2) for k in (3, 4, 5))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(300, classes)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words).mT
        return self.head(self.drop(torch.cat([F.relu(c(x)).amax(2) for c in self.convs], 1)))


def pieces() -> tuple[Tensor, Tensor]:
    """Words of pieces of code, as numbers `[n, LENGTH]`, and which module each is from."""
    texts = [
        re.findall(r"[A-Za-z_]+|[^\sA-Za-z_]", inspect.getsource(import_module(name)))
        for name in MODULES
    ]
    frequent = Counter(word for text in texts for word in text).most_common(WORDS - 1)
    known = {word: at + 1 for at, (word, _) in enumerate(frequent)}
    words, labels = [], []
    for label, text in enumerate(texts):
        for start in range(0, len(text) - LENGTH, LENGTH):
            words.append([known.get(word, 0) for word in text[start : start + LENGTH]])
            labels.append(label)
    return torch.tensor(words), torch.tensor(labels)


def trained(words: Tensor, labels: Tensor) -> TextCnn:
    torch.manual_seed(0)
    model = TextCnn(len(MODULES))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = 12 * len(words) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        batch = torch.randint(len(words), (64,))
        loss = F.cross_entropy(model(words[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, words: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * (model(words).argmax(1) == labels).double().mean().item()


def test_half_of_a_text_network_answers_as_well():
    words, labels = pieces()
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))
    words, labels = words[order], labels[order]
    quarter = len(words) // 4
    held, learnt = slice(0, quarter), slice(quarter, None)
    model = trained(words[learnt], labels[learnt])
    dense = accuracy(model, words[held], labels[held])
    batches = words[learnt][:1000].split(100)
    small = convert(model, plan(model, batches, Budget(macs=0.5)), batches)
    better = distill(small, model, words[learnt].split(64), epochs=8)
    assert dense > 85
    assert count(better, words[:1]).macs <= 0.5 * count(model, words[:1]).macs
    before, after = (fidelity(net, model, [words[held]], "logits")["kl"] for net in (small, better))
    assert after < 0.7 * before
    assert accuracy(small, words[held], labels[held]) > dense - 2
    assert accuracy(better, words[held], labels[held]) > dense - 1
