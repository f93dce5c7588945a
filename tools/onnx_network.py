"""A small network with every operator of PyTorch's that ours has a layer for, as an ONNX file: what tools/make_fixtures.py
compares ours with.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from published_networks import numbers


class Every(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.pooled_norm = nn.BatchNorm3d(4)
        self.wide = nn.Conv3d(4, 6, (1, 3, 3), dilation=(1, 2, 2), padding=(0, 2, 2), bias=False)
        self.down = nn.Conv3d(6, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(6, 6, 3, 2, 1, 1)
        self.cell = nn.ConvTranspose3d(6, 4, 2, 2)
        self.joined = nn.Conv3d(8, 4, 3, padding=1)
        self.end = nn.Conv3d(4, 2, 1)

    def forward(self, x):
        fine = F.leaky_relu(self.norm(self.first(x)), 0.1)
        x = self.pooled_norm(F.max_pool3d(fine, 2))
        x = F.relu(self.wide(x))
        x = x + self.up(F.leaky_relu(self.down(x), 0.01))
        x = x + F.interpolate(F.avg_pool3d(x, 2), scale_factor=2, mode="nearest")
        x = x + F.interpolate(
            F.max_pool3d(x, 2),
            scale_factor=2,
            mode="trilinear",
            align_corners=False,
        )
        x = self.joined(torch.cat([self.cell(x), fine], 1))
        return self.end(x).softmax(1)


EXTENTS = (8, 12, 16)


def network():
    """The network with weights of a formula, statistics included."""
    net = Every().eval()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = numbers(name, tensor.numel()).reshape(tensor.shape)
            if tensor.dim() == 5:
                values = values * np.float32(math.sqrt(6 / tensor[0].numel()))
            elif name.endswith(("weight", "running_var")):
                values = 1 + values / 8
            else:
                values = values / 8
            tensor.copy_(torch.from_numpy(values))
    return net


def export(path):
    """Writes the network; returns the logit of its second class for the input that the formula gives."""
    net = network()
    x = torch.from_numpy(numbers("input", math.prod(EXTENTS))).reshape(1, 1, *EXTENTS)
    torch.onnx.export(
        net, (x,), str(path), opset_version=17, dynamo=False, input_names=["image"]
    )
    with torch.no_grad():
        y = net.double()(x.double())[0]
    return torch.log(y[1] / y[0]).numpy().astype(np.float32)
