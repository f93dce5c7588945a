"""Published networks in PyTorch, written from their papers and from the names of their tensors: what
tools/make_fixtures.py compares ours with. `weights` fills them with numbers that a formula gives, so that a
fixture needs to hold answers alone.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def numbers(name, count):
    """`count` numbers between -1 and 1, a function of the name: a hash of the index, of 32 bits."""
    salt = 0x811C9DC5
    for byte in name.encode():
        salt = (salt ^ byte) * 0x01000193 & 0xFFFFFFFF  # FNV-1a
    h = (np.arange(count, dtype=np.uint64) + salt) * 2654435761 & 0xFFFFFFFF
    h = ((h ^ h >> 16) * 0x045D9F3B) & 0xFFFFFFFF
    h = (h ^ h >> 16).astype(np.float64)
    return (h / 2**31 - 1).astype(np.float32)


def weights(network):
    """Fills a network: weights of convolutions as large as He et al. (2015) have them, norms near the identity."""
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            values = numbers(name, tensor.numel()).reshape(tensor.shape)
            if tensor.dim() == 5:
                values = values * np.float32(math.sqrt(6 / tensor[0].numel()))
            elif name.endswith(".weight"):
                values = 1 + values / 8
            else:
                values = values / 8
            tensor.copy_(torch.from_numpy(values))
    return network.double().eval()


def named(*modules):
    """A sequence whose members have the numbers that they have in the published files."""
    sequence = nn.Sequential()
    for number, module in modules:
        sequence.add_module(str(number), module)
    return sequence


class LinkNet(nn.Module):
    """deepbet's: LinkNet in three dimensions, with instance norm; two classes."""

    def __init__(self, width):
        super().__init__()

        def normed(conv, *more):
            return named((0, conv), (1, nn.InstanceNorm3d(conv.out_channels)), *more)

        relu = nn.ReLU()
        pool = (3, nn.MaxPool3d(3, 2, 1))
        self.init = normed(
            nn.Conv3d(1, width, 7, 2, 3, bias=False), (2, relu), pool
        )

        class Block(nn.Module):
            def __init__(self, read, written, stride):
                super().__init__()
                self.double_conv = named(
                    (0, nn.Conv3d(read, written, 3, stride, 1, bias=False)),
                    (1, nn.InstanceNorm3d(written)),
                    (2, relu),
                    (3, nn.Conv3d(written, written, 3, 1, 1, bias=False)),
                    (4, nn.InstanceNorm3d(written)),
                )
                if stride == 2:
                    self.downsample = normed(
                        nn.Conv3d(read, written, 1, 2, bias=False)
                    )

            def forward(self, x):
                around = self.downsample(x) if hasattr(self, "downsample") else x
                return F.relu(self.double_conv(x) + around)

        class Down(nn.Module):
            def __init__(self, read, written, stride):
                super().__init__()
                self.block1 = Block(read, written, stride)
                self.block2 = Block(written, written, 1)

            def forward(self, x):
                return self.block2(self.block1(x))

        class Up(nn.Module):
            def __init__(self, read, written, stride):
                super().__init__()
                inner = read // 4
                self.conv1 = normed(nn.Conv3d(read, inner, 1, bias=False), (2, relu))
                self.tp_conv = normed(
                    nn.ConvTranspose3d(
                        inner, inner, 3, stride, 1, stride - 1, bias=False
                    ),
                    (2, relu),
                )
                self.conv2 = normed(nn.Conv3d(inner, written, 1, bias=False), (2, relu))

            def forward(self, x):
                return self.conv2(self.tp_conv(self.conv1(x)))

        wide = [width, width, 2 * width, 4 * width, 8 * width]
        for level in range(4):
            down = Down(wide[level], wide[level + 1], 1 if level == 0 else 2)
            self.add_module(f"down{level}", down)
        for level, (read, written) in enumerate(zip(wide[:0:-1], wide[-2::-1])):
            self.add_module(f"up{level}", Up(read, written, 1 if level == 3 else 2))
        half = width // 2
        self.tp_conv1 = normed(nn.ConvTranspose3d(width, half, 3, 2, 1, 1), (2, relu))
        self.conv = normed(nn.Conv3d(half, half, 3, 1, 1), (2, relu))
        self.tp_conv2 = nn.ConvTranspose3d(half, 2, 2, 2)

    def forward(self, x):
        x = self.init(x)
        skips = [x]
        for level in range(4):
            x = getattr(self, f"down{level}")(x)
            skips.append(x)
        skips.pop()
        for level in range(4):
            x = getattr(self, f"up{level}")(x) + skips.pop()
        classes = self.tp_conv2(self.conv(self.tp_conv1(x)))
        return classes[:, 1:] - classes[:, :1]


class Strip(nn.Module):
    """SynthStrip's: six halvings, no norm, a signed distance in mm. The mask ends at 1 mm."""

    def __init__(self, width):
        super().__init__()

        class Block(nn.Module):
            def __init__(self, read, written, last=False):
                super().__init__()
                self.conv = nn.Conv3d(read, written, 3, 1, 1)
                self.last = last

            def forward(self, x):
                x = self.conv(x)
                return x if self.last else F.leaky_relu(x, 0.2)

        wide = [min(width << level, 4 * width) for level in range(7)]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        read = 1
        for level in range(6):
            pair = [Block(read, wide[level]), Block(wide[level], wide[level])]
            self.encoder.append(nn.ModuleList(pair))
            read = wide[level]
        for level in range(6, 0, -1):
            pair = [Block(read, wide[level]), Block(wide[level], wide[level])]
            self.decoder.append(nn.ModuleList(pair))
            read = wide[level] + wide[level - 1]
        ends = [Block(read, width), Block(width, width), Block(width, 1, last=True)]
        self.remaining = nn.ModuleList(ends)

    def forward(self, x):
        skips = []
        for pair in self.encoder:
            for block in pair:
                x = block(x)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        for pair in self.decoder:
            for block in pair:
                x = block(x)
            x = torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], 1)
        for block in self.remaining:
            x = block(x)
        return 1 - x


class MeshNet(nn.Module):
    """MindGrab's: dilated convolutions, a group of its own for each channel, two classes."""

    def __init__(self, width, rounds):
        super().__init__()
        self.model = nn.Sequential()
        read = 1
        for reach in [16, 8, 4, 2, 1] * rounds:
            conv = nn.Conv3d(read, width, 3, padding=reach, dilation=reach, bias=False)
            norm = nn.GroupNorm(width, width, affine=False)
            self.model.append(nn.Sequential(conv, norm, nn.GELU(approximate="tanh")))
            read = width
        self.model.append(nn.Conv3d(width, 2, 1))

    def forward(self, x):
        classes = self.model(x)
        return classes[:, 1:] - classes[:, :1]


class HdBet(nn.Module):
    """HD-BET's, version 1: residual blocks that normalise first, trilinear upsampling, two classes."""

    def __init__(self, width):
        super().__init__()

        def norm(channels):
            return nn.InstanceNorm3d(channels, affine=True)

        def conv(read, written, kernel=3, stride=1):
            return nn.Conv3d(read, written, kernel, stride, kernel // 2)

        class Context(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.bn_1, self.conv1 = norm(channels), conv(channels, channels)
                self.bn_2, self.conv2 = norm(channels), conv(channels, channels)

            def forward(self, x):
                inner = self.conv1(F.leaky_relu(self.bn_1(x), 1e-2))
                return self.conv2(F.leaky_relu(self.bn_2(inner), 1e-2)) + x

        class Down(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.bn = norm(channels)
                self.downsample = conv(channels, 2 * channels, stride=2)

            def forward(self, x):
                skip = F.leaky_relu(self.bn(x), 1e-2)
                return skip, self.downsample(skip)

        class Up(nn.Module):
            def __init__(self, read, written):
                super().__init__()
                self.upsample_conv, self.bn = conv(read, written), norm(written)

            def forward(self, x):
                finer = F.interpolate(
                    x, scale_factor=2, mode="trilinear", align_corners=True
                )
                return F.leaky_relu(self.bn(self.upsample_conv(finer)), 1e-2)

        class Localise(nn.Module):
            def __init__(self, channels):
                super().__init__()
                read = 2 * channels
                self.conv1, self.bn_1 = conv(read, read), norm(read)
                self.conv2, self.bn_2 = conv(read, channels, 1), norm(channels)

            def forward(self, x):
                x = F.leaky_relu(self.bn_1(self.conv1(x)), 1e-2)
                return F.leaky_relu(self.bn_2(self.conv2(x)), 1e-2)

        self.init_conv = conv(1, width)
        for level in range(5):
            self.add_module(f"context{level + 1}", Context(width << level))
            if level < 4:
                self.add_module(f"down{level + 1}", Down(width << level))
                self.add_module(f"up{4 - level}", Up(width << level + 1, width << level))
                if level > 0:
                    self.add_module(f"loc{4 - level}", Localise(width << level))
        self.bn_after_context5 = norm(16 * width)
        both = 2 * width
        self.end_conv_1, self.end_conv_1_bn = conv(both, both), norm(both)
        self.end_conv_2, self.end_conv_2_bn = conv(both, both), norm(both)
        self.seg_layer = nn.Conv3d(both, 2, 1, bias=False)

    def forward(self, x):
        x, skips = self.init_conv(x), []
        for level in range(1, 5):
            skip, x = getattr(self, f"down{level}")(
                getattr(self, f"context{level}")(x)
            )
            skips.append(skip)
        x = F.leaky_relu(self.bn_after_context5(self.context5(x)), 1e-1)
        for level in range(1, 5):
            x = torch.cat([skips.pop(), getattr(self, f"up{level}")(x)], 1)
            if level < 4:
                x = getattr(self, f"loc{level}")(x)
        x = F.leaky_relu(self.end_conv_1_bn(self.end_conv_1(x)), 1e-1)
        x = F.leaky_relu(self.end_conv_2_bn(self.end_conv_2(x)), 1e-1)
        classes = self.seg_layer(x)
        return classes[:, 1:] - classes[:, :1]


# Name -> network, extents of the input, step between the voxels whose logits are kept.
NETWORKS = {
    "deepbet": (lambda: LinkNet(4), (32, 64, 96), 4),
    "synthstrip": (lambda: Strip(4), (64, 64, 128), 5),
    "mindgrab": (lambda: MeshNet(5, 2), (20, 33, 24), 1),
    "hd-bet": (lambda: HdBet(3), (32, 16, 48), 2),
}


def logits(name):
    """The answer of a network of this name to the input that the formula gives, and how many parameters it has."""
    make, extents, step = NETWORKS[name]
    network = weights(make())
    x = torch.from_numpy(numbers("input", math.prod(extents))).double()
    with torch.no_grad():
        y = network(x.reshape(1, 1, *extents))
    kept = y[0, 0, ::step, ::step, ::step].numpy().astype(np.float32)
    return kept, sum(p.numel() for p in network.parameters())


def torch_files(folder):
    """Small files in the three formats of PyTorch, all of the same state dict; returns what it holds."""
    state = {
        "layer.weight": torch.from_numpy(numbers("layer.weight", 24)).reshape(4, 6).t(),
        "layer.bias": torch.from_numpy(numbers("layer.bias", 4)).half(),
        "layer.wide": torch.from_numpy(numbers("layer.wide", 6)).double()[2:5],
        "layer.num_batches_tracked": torch.tensor(7),
    }
    checkpoint = {"epoch": 3, "loss": 0.25, "model_state_dict": state, "note": None}
    torch.save(checkpoint, folder / "torch_zip.pt")
    torch.save(
        checkpoint, folder / "torch_old.pt", _use_new_zipfile_serialization=False
    )

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in state.items():
                self.register_buffer(name.split(".")[1], tensor)

        def forward(self, x):
            return x + self.weight

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Layer()

        def forward(self, x):
            return self.layer(x)

    torch.jit.trace(Whole(), torch.zeros(6, 4)).save(str(folder / "torch_script.pt"))
    return state
