"""Images with a strong feature that is mostly right, and a faint one that is always right and easily attacked."""

import torch
from torch.utils.data import Dataset
from transformers import BitImageProcessor

SIDE = 16
EPSILON = 0.1
MEAN, STD = 0.5, 0.25


class TwoFeatures(Dataset):
    """Normalised images: the upper half is bright in 92% of one class, and a faint pattern tells the classes apart."""

    def __init__(self, rows, seed):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(2, (rows,), generator=generator)
        sign = (2 * self.labels - 1).float()[:, None, None, None]
        strong = torch.where(torch.rand(rows, generator=generator)[:, None, None, None] < 0.08, -sign, sign)
        pixels = 0.5 + 0.02 * torch.randn(rows, 3, SIDE, SIDE, generator=generator)
        pixels[:, :, : SIDE // 2] += 0.2 * strong
        pixels += 0.05 * sign * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(9)).sign()
        self.values = (pixels.clamp(0, 1) - MEAN) / STD

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"pixel_values": self.values[row], "labels": self.labels[row]}


def processor():
    size = {"height": SIDE, "width": SIDE}
    return BitImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=size, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )  # fmt: skip
