"""Trains the network of the `digits` recipe: `python recipes/digits_train.py`, a few minutes.

A timm ResNet-18 of 64 channels throughout on scikit-learn's handwritten digits, enlarged to
64x64; the images the recipe measures on are held out. Writes `digits.safetensors` beside this
file, in half precision, in which the network is measured here as well.
"""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.scheduler import CosineLRScheduler

from convswap import Preprocess, accuracy, open_images

KWARGS = {"channels": [64, 64, 64, 64], "stem_width": 64, "in_chans": 1, "num_classes": 10}
PREPROCESS = Preprocess(input_size=(1, 64, 64), mean=(0.5,), std=(0.5,))
EPOCHS = 25


def main() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", **KWARGS)
    images = open_images("digits", PREPROCESS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, EPOCHS, warmup_t=2, warmup_lr_init=3e-4)
    training = images.batches(64, shuffle=True)
    for epoch in range(EPOCHS):
        model.train()
        scheduler.step(epoch)
        for x, labels in training:
            shift = torch.randint(-6, 7, (2,)).tolist()
            x = torch.roll(x, shift, (2, 3))
            loss = torch.nn.functional.cross_entropy(model(x), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    state = model.half().state_dict()
    held_out = open_images("digits", PREPROCESS, held_out=True)
    print(accuracy(model.float(), held_out.batches(128)))
    save_file(state, Path(__file__).with_name("digits.safetensors"))


if __name__ == "__main__":
    main()
