"""nnU-Net's networks in PyTorch, written from its papers and from the names in its checkpoints, with its inference by
overlapping patches in NumPy: what tools/make_fixtures.py compares ours with.
"""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from published_networks import numbers, weights


def conv_block(read, written, kernel, stride=1, active=True, bias=True):
    """Convolution, instance norm and leaky ReLU, under nnU-Net's names."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            padding = [(n - 1) // 2 for n in kernel]
            self.conv = nn.Conv3d(read, written, kernel, stride, padding, bias=bias)
            self.norm = nn.InstanceNorm3d(written, affine=True)
            # nnU-Net names both a second time.
            self.all_modules = nn.Sequential(self.conv, self.norm)

        def forward(self, x):
            x = self.norm(self.conv(x))
            return F.leaky_relu(x, 0.01) if active else x

    return Block()


class Convs(nn.Module):
    """Blocks one after the other, of which the first may halve the grid."""

    def __init__(self, count, read, written, kernel, stride=1):
        super().__init__()
        reads = [read] + [written] * (count - 1)
        strides = [stride] + [1] * (count - 1)
        blocks = [
            conv_block(r, written, kernel, s)
            for r, s in zip(reads, strides, strict=True)
        ]
        self.convs = nn.Sequential(*blocks)

    def forward(self, x):
        return self.convs(x)


class Residual(nn.Module):
    """Two convolutions, and round them the input: averaged where they halve it, projected where they widen it."""

    def __init__(self, read, written, kernel, stride):
        super().__init__()
        self.conv1 = conv_block(read, written, kernel, stride)
        self.conv2 = conv_block(written, written, kernel, active=False)
        around = []
        if math.prod(stride) > 1:
            around.append(nn.AvgPool3d(stride, stride))
        if read != written:
            around.append(
                conv_block(read, written, (1, 1, 1), active=False, bias=False)
            )
        self.skip = nn.Sequential(*around)

    def forward(self, x):
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), 0.01)


class Stage(nn.Module):
    def __init__(self, count, read, written, kernel, stride):
        super().__init__()
        blocks = [Residual(read, written, kernel, stride)]
        blocks += [
            Residual(written, written, kernel, (1, 1, 1)) for _ in range(count - 1)
        ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class Encoder(nn.Module):
    def __init__(self, plan):
        super().__init__()
        features, kernels, strides = plan["features"], plan["kernels"], plan["strides"]
        read, stages = 1, []
        if plan["residual"]:
            self.stem = Convs(1, 1, features[0], kernels[0])
            read = features[0]
        for count, written, kernel, stride in zip(
            plan["encoder"], features, kernels, strides, strict=True
        ):
            stage = (Stage if plan["residual"] else Convs)(
                count, read, written, kernel, stride
            )
            stages.append(stage if plan["residual"] else nn.Sequential(stage))
            read = written
        self.stages = nn.Sequential(*stages)

    def forward(self, x):
        x = self.stem(x) if hasattr(self, "stem") else x
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    def __init__(self, plan, encoder, channels):
        super().__init__()
        # nnU-Net's decoder holds the encoder, whose weights are named twice in its checkpoints.
        self.encoder = encoder
        features, kernels, strides = plan["features"], plan["kernels"], plan["strides"]
        self.stages, self.transpconvs, self.seg_layers = (
            nn.ModuleList() for _ in range(3)
        )
        for level, count in zip(
            reversed(range(len(features) - 1)), plan["decoder"], strict=True
        ):
            stride, written = strides[level + 1], features[level]
            up = nn.ConvTranspose3d(features[level + 1], written, stride, stride)
            self.transpconvs.append(up)
            self.stages.append(Convs(count, 2 * written, written, kernels[level]))
            # One for each level: all but the last serve training.
            self.seg_layers.append(nn.Conv3d(written, channels, 1))

    def forward(self, skips):
        x = skips.pop()
        for up, stage in zip(self.transpconvs, self.stages, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], 1))
        return self.seg_layers[-1](x)


class UNet(nn.Module):
    """A plain or residual-encoder U-Net of a plan; two classes, of which it answers the difference."""

    def __init__(self, plan):
        super().__init__()
        self.encoder = Encoder(plan)
        self.decoder = Decoder(plan, self.encoder, 2)

    def forward(self, x):
        classes = self.decoder(self.encoder(x))
        return classes[:, 1:] - classes[:, :1]


PLANS = {
    "nnunet-plain": {
        "residual": False,
        "features": [3, 4, 5],
        "kernels": [(1, 3, 3), (3, 3, 3), (3, 3, 3)],
        "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)],
        "encoder": [2, 2, 1],
        "decoder": [2, 1],
    },
    "nnunet-residual": {
        "residual": True,
        "features": [2, 4, 4],
        "kernels": [(3, 3, 3), (3, 3, 3), (1, 3, 3)],
        "strides": [(1, 1, 1), (2, 2, 2), (1, 2, 2)],
        "encoder": [1, 2, 1],
        "decoder": [1, 1],
    },
}


def plans_file(name, patch):
    """The plans of a network as nnU-Net writes them."""
    plan = PLANS[name]
    kind = "ResidualEncoderUNet" if plan["residual"] else "PlainConvUNet"
    return {
        "dataset_name": "Dataset001_" + kind,
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "patch_size": list(patch),
                "spacing": [2.0, 1.5, 1.5],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"order": 3, "order_z": 0},
                "resampling_fn_probabilities_kwargs": {"order": 1, "order_z": 0},
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet."
                    + kind,
                    "arch_kwargs": {
                        "n_stages": len(plan["features"]),
                        "features_per_stage": plan["features"],
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [list(k) for k in plan["kernels"]],
                        "strides": [list(s) for s in plan["strides"]],
                        "n_blocks_per_stage" if plan["residual"] else "n_conv_per_stage": plan["encoder"],
                        "n_conv_per_stage_decoder": plan["decoder"],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                },
            }
        },
    }


DATASET = {
    "channel_names": {"0": "T1w"},
    "labels": {"background": 0, "brain": 1},
    "file_ending": ".nii.gz",
}


def checkpoint(name, patch, path):
    """Writes a checkpoint with all that nnU-Net keeps beside the weights, those of a formula."""
    network = weights(UNet(PLANS[name])).float()
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99)
    state = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 7},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float32(0.25)],
            "lrs": [0.01],
            "by_label": np.zeros(2),
        },
        "_best_ema": np.float64(0.75),
        "current_epoch": 3,
        "init_args": {
            "plans": plans_file(name, patch),
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": DATASET,
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 2),
    }
    torch.save(state, path)


def starts(extent, patch):
    """First voxels of patches that cover an axis, half a patch apart at most."""
    steps = math.ceil((extent - patch) / (patch / 2))
    return [
        round((extent - patch) / max(steps, 1) * ix) for ix in range(steps + 1)
    ]


def in_patches(network, x, patch, mirror_axes):
    """Logits of a volume [D, H, W] in overlapping patches with Gaussian weights, each the mean over its mirror images."""
    along = [
        np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * (n / 8) ** 2)) for n in patch
    ]
    weight = along[0][:, None, None] * along[1][:, None] * along[2]
    total, covered = np.zeros(x.shape), np.zeros(x.shape)
    flips = [
        axes
        for n in range(len(mirror_axes) + 1)
        for axes in itertools.combinations(mirror_axes, n)
    ]
    for corner in itertools.product(*map(starts, x.shape, patch)):
        place = tuple(slice(at, at + n) for at, n in zip(corner, patch, strict=True))
        mean = np.zeros(patch)
        for axes in flips:
            with torch.no_grad():
                piece = torch.from_numpy(np.flip(x[place], axes).copy())[None, None]
                mean += np.flip(network(piece)[0, 0].numpy(), axes) / len(flips)
        total[place] += weight * mean
        covered[place] += weight
    return total / covered


# Extents of what is no background in a volume, the planes of background before and behind it, and the extents of the
# patches that it is seen in.
CONTENT, AROUND, PATCH = (11, 28, 9), ((1, 2), (0, 2), (3, 1)), (8, 16, 12)


def volume():
    """A volume of positive numbers in a background of 0."""
    inner = np.float32(8) + np.float32(7) * numbers("volume", math.prod(CONTENT))
    return np.pad(inner.reshape(CONTENT), AROUND)


def preprocessed(x):
    """Cropped to what is not 0, brought to mean 0 and deviation 1, padded to a patch; and what was padded."""
    inside = np.nonzero(x)
    x = x[tuple(slice(at.min(), at.max() + 1) for at in inside)].astype(np.float64)
    x = (x - x.mean()) / max(x.std(), 1e-8)
    lack = [max(patch - n, 0) for n, patch in zip(x.shape, PATCH, strict=True)]
    pad = [(n // 2, n - n // 2) for n in lack]
    return np.pad(x, pad), tuple(
        slice(before, before + n) for (before, _), n in zip(pad, x.shape, strict=True)
    )


def fixture():
    """Logits of whole grids, and of what is no background in a volume in patches, without mirroring and with it."""
    tensors = {}
    for name, extents in [("nnunet-plain", (6, 20, 28)), ("nnunet-residual", (12, 24, 16))]:
        network = weights(UNet(PLANS[name]))
        x = torch.from_numpy(numbers("input", math.prod(extents))).double()
        with torch.no_grad():
            y = network(x.reshape(1, 1, *extents))[0, 0]
        tensors[f"{name}.extents"] = np.array(extents, np.float32)
        tensors[f"{name}.logits"] = y[:, ::2, ::2].numpy().astype(np.float32)
    network = weights(UNet(PLANS["nnunet-plain"]))
    x, unpadded = preprocessed(volume())
    for kind, axes in {"patches": (), "mirrored": (0, 2)}.items():
        y = in_patches(network, x, PATCH, axes)[unpadded]
        tensors[f"{kind}.logits"] = y.astype(np.float32)
    return tensors
