#!/usr/bin/env python3
"""Make the golden files under tests/fixtures/ that the Rust tests compare with.

Each fixture is one .safetensors file that holds the inputs and the answers of an
independent implementation (PyTorch, SimpleITK, nilearn, scipy, MONAI), so that the tests need
no Python. Answers are computed in float64 from inputs that were first rounded to
float32: a test that loads the stored inputs starts from exactly the same numbers.
SimpleITK's N4 is the exception, since it only computes in float32.

    pip install numpy scipy nibabel nilearn SimpleITK safetensors torch onnx keras h5py monai
    python tools/make_fixtures.py                  # everything
    python tools/make_fixtures.py --only ops       # one fixture
    COLIN27_MASK=mask.nii.gz python tools/make_fixtures.py --only colin27

Conventions:
- activations are N C D H W; convolution weights are laid out as PyTorch's:
  (out, in, kd, kh, kw), and (in, out, kd, kh, kw) where transposed;
- image volumes are indexed [x, y, z] as nibabel does, row-major, so z is the fastest
  axis in the file (NIfTI itself stores x fastest);
- a scalar is a tensor of shape [1];
- networks: input, target, init.NAME, logits (before the sigmoid), loss, losses (of the
  three steps), grad.NAME (of the first step), after3.NAME, after3.eval_logits;
- operators: CASE.input, CASE.weight ..., CASE.output, CASE.grad_output (the random
  cotangent), and CASE.grad_input, CASE.grad_weight ... for it.

tests/fixtures/manifest.json records, for every file, what it holds, the versions that
made it, its sha256, and figures measured while making it. The sums identify the files
that were committed; another machine or library version may differ in the last bit.
"""

import argparse
import hashlib
import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SEED = 20240607


def generator(name):
    """A random generator of its own for each fixture, so that --only changes nothing."""
    return np.random.default_rng([SEED, *name.encode()])


def normal(rng, *shape, scale=1.0, shift=0.0):
    """Normal float32 numbers; rounded here, so every later step starts from them."""
    return (scale * rng.standard_normal(shape) + shift).astype(np.float32)


def scalar(value):
    return np.array([value], np.float32)


def to_numpy(tensor):
    """A torch tensor as a float32 array of at least one axis."""
    return np.atleast_1d(tensor.detach().double().numpy()).astype(np.float32)


# ------------------------------------------------------------------------------ networks


def he_normal(rng, fan_in, *shape):
    return normal(rng, *shape, scale=math.sqrt(2.0 / fan_in))


def dice_plus_bce(logits, target):
    """Soft Dice over the whole batch (smooth 1) plus the mean binary cross-entropy."""
    import torch.nn.functional as F

    return soft_dice(logits, target) + F.binary_cross_entropy_with_logits(
        logits, target
    )


def soft_dice(logits, target, smooth=1.0):
    p = logits.sigmoid()
    overlap = (p * target).sum()
    return 1 - (2 * overlap + smooth) / (p.sum() + target.sum() + smooth)


def soft_dice_per_sample(logits, target, smooth=1.0):
    """Mean over the batch of each sample's own Dice loss."""
    p, y = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = (p * y).sum(1)
    return (1 - (2 * overlap + smooth) / (p.sum(1) + y.sum(1) + smooth)).mean()


def focal(logits, target, gamma=2.0, alpha=0.25):
    """Mean binary focal loss; alpha weighs the foreground, 1 - alpha the background."""
    import torch
    import torch.nn.functional as F

    signed = torch.where(target > 0, logits, -logits)
    weight = torch.where(target > 0, alpha, 1 - alpha)
    return (-weight * (-signed).sigmoid() ** gamma * F.logsigmoid(signed)).mean()


def blob_target(rng, shape):
    """A 0/1 target per sample: an ellipsoid at a random place, as a brain would be."""
    batch, _, *grid = shape
    target = np.zeros(shape, np.float32)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in grid], indexing="ij")
    for sample in range(batch):
        centre = rng.uniform(-0.2, 0.2, 3)
        radius = rng.uniform(0.5, 0.8, 3)
        r2 = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius))
        target[sample, 0] = r2 < 1
    return target


class ArticleUNet:
    """The article's network as its code builds it, with Keras' semantics.

    One convolution a block; the bottleneck calls the block twice, with weights of its
    own each time (mid1, mid2). Level 1 is the finest.
    """

    NORM_EPSILON = 1e-3
    NORM_MOMENTUM = 0.99

    def __init__(self, filters, depth=4):
        self.depth = depth
        self.width = [filters << level for level in range(depth + 1)]

    def initial(self, rng):
        """Name -> float32 array, running statistics included.

        Biases and the norms' affine parts get random values instead of 0 and 1, so that
        a test notices when one is ignored.
        """
        parameters = {}

        def block(name, c_in, c_out):
            parameters[f"{name}.conv.weight"] = he_normal(
                rng, 27 * c_in, c_out, c_in, 3, 3, 3
            )
            parameters[f"{name}.conv.bias"] = normal(rng, c_out, scale=0.1)
            parameters[f"{name}.norm.weight"] = normal(rng, c_out, scale=0.1, shift=1.0)
            parameters[f"{name}.norm.bias"] = normal(rng, c_out, scale=0.1)
            parameters[f"{name}.norm.running_mean"] = np.zeros(c_out, np.float32)
            parameters[f"{name}.norm.running_var"] = np.ones(c_out, np.float32)

        width = self.width
        for level in range(1, self.depth + 1):
            block(
                f"enc{level}", 1 if level == 1 else width[level - 2], width[level - 1]
            )
        block("mid1", width[-2], width[-1])
        block("mid2", width[-1], width[-1])
        for level in range(self.depth, 0, -1):
            c_in, c_out = width[level], width[level - 1]
            # Of the 27 taps, 27/8 on average reach an output voxel at stride 2.
            parameters[f"up{level}.weight"] = he_normal(
                rng, 27 / 8 * c_in, c_in, c_out, 3, 3, 3
            )
            parameters[f"up{level}.bias"] = normal(rng, c_out, scale=0.1)
            block(f"dec{level}", 2 * c_out, c_out)
        parameters["out.weight"] = he_normal(rng, 2 * width[0], 1, width[0], 1, 1, 2)
        parameters["out.bias"] = normal(rng, 1, scale=0.1)
        return parameters

    @staticmethod
    def trainable(name):
        return "running_" not in name

    def forward(self, p, x, training):
        """Logits; in training mode the running statistics in `p` are updated."""
        import torch
        import torch.nn.functional as F

        def block(name, x):
            x = F.conv3d(x, p[f"{name}.conv.weight"], p[f"{name}.conv.bias"], padding=1)
            if training:
                mean = x.mean((0, 2, 3, 4))
                # Keras keeps the biased variance in its running statistics too.
                var = x.var((0, 2, 3, 4), correction=0)
                for kind, value in (("mean", mean), ("var", var)):
                    running = p[f"{name}.norm.running_{kind}"]
                    running.lerp_(value.detach(), 1 - self.NORM_MOMENTUM)
            else:
                mean = p[f"{name}.norm.running_mean"]
                var = p[f"{name}.norm.running_var"]
            gain = p[f"{name}.norm.weight"] / (var + self.NORM_EPSILON).sqrt()
            offset = p[f"{name}.norm.bias"] - mean * gain
            return F.relu(x * gain.view(1, -1, 1, 1, 1) + offset.view(1, -1, 1, 1, 1))

        skips = []
        for level in range(1, self.depth + 1):
            x = block(f"enc{level}", x)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        x = block("mid2", block("mid1", x))
        for level in range(self.depth, 0, -1):
            x = F.relu(
                conv_transpose_same(x, p[f"up{level}.weight"], p[f"up{level}.bias"])
            )
            x = block(f"dec{level}", torch.cat([x, skips.pop()], 1))
        return conv_pad_after(x, p["out.weight"], p["out.bias"])


def conv_transpose_same(input, weight, bias):
    """Keras' 3x3x3 stride-2 'same': input i reaches outputs 2i + k, the last is cropped."""
    import torch.nn.functional as F

    return F.conv_transpose3d(input, weight, bias, stride=2)[..., :-1, :-1, :-1]


def conv_pad_after(input, weight, bias):
    """Keras' 'same' for an even kernel: (1, 1, 2) pads one zero after the last axis."""
    import torch.nn.functional as F

    return F.conv3d(F.pad(input, (0, 1)), weight, bias)


class ResidualUNet:
    """A U-Net of residual blocks with two convolutions and instance norm in each."""

    SLOPE = 0.01
    NORM_EPSILON = 1e-5

    def __init__(self, widths):
        self.widths = widths

    def initial(self, rng):
        parameters = {}

        def block(name, c_in, c_out):
            for index, c in ((1, c_in), (2, c_out)):
                parameters[f"{name}.conv{index}.weight"] = he_normal(
                    rng, 27 * c, c_out, c, 3, 3, 3
                )
                parameters[f"{name}.norm{index}.weight"] = normal(
                    rng, c_out, scale=0.1, shift=1.0
                )
                parameters[f"{name}.norm{index}.bias"] = normal(rng, c_out, scale=0.1)
            if c_in != c_out:
                parameters[f"{name}.project.weight"] = he_normal(
                    rng, 2 * c_in, c_out, c_in, 1, 1, 1
                )

        widths = self.widths
        for level, c_out in enumerate(widths[:-1], 1):
            block(f"enc{level}", 1 if level == 1 else widths[level - 2], c_out)
        block("mid", widths[-2], widths[-1])
        for level in range(len(widths) - 1, 0, -1):
            c_in, c_out = widths[level], widths[level - 1]
            parameters[f"up{level}.weight"] = he_normal(rng, c_in, c_in, c_out, 2, 2, 2)
            parameters[f"up{level}.bias"] = normal(rng, c_out, scale=0.1)
            block(f"dec{level}", 2 * c_out, c_out)
        parameters["head.weight"] = he_normal(rng, widths[0], 1, widths[0], 1, 1, 1)
        parameters["head.bias"] = normal(rng, 1, scale=0.1)
        return parameters

    @staticmethod
    def trainable(_name):
        return True

    def forward(self, p, x, training):
        import torch
        import torch.nn.functional as F

        def norm(name, x):
            return F.instance_norm(
                x,
                weight=p[f"{name}.weight"],
                bias=p[f"{name}.bias"],
                eps=self.NORM_EPSILON,
            )

        def block(name, x):
            identity = x
            if f"{name}.project.weight" in p:
                identity = F.conv3d(x, p[f"{name}.project.weight"])
            x = norm(f"{name}.norm1", F.conv3d(x, p[f"{name}.conv1.weight"], padding=1))
            x = F.leaky_relu(x, self.SLOPE)
            x = norm(f"{name}.norm2", F.conv3d(x, p[f"{name}.conv2.weight"], padding=1))
            return F.leaky_relu(x + identity, self.SLOPE)

        levels = len(self.widths) - 1
        skips = []
        for level in range(1, levels + 1):
            x = block(f"enc{level}", x)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        x = block("mid", x)
        for level in range(levels, 0, -1):
            x = F.conv_transpose3d(
                x, p[f"up{level}.weight"], p[f"up{level}.bias"], stride=2
            )
            x = block(f"dec{level}", torch.cat([x, skips.pop()], 1))
        return F.conv3d(x, p["head.weight"], p["head.bias"])


class KerasAdam:
    """Adam as Keras writes it: epsilon 1e-7 stands outside the bias correction."""

    def __init__(self, parameters, lr):
        import torch

        self.parameters = parameters
        self.lr = lr
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.step_count = 0

    def step(self):
        import torch

        self.step_count += 1
        t = self.step_count
        rate = self.lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        with torch.no_grad():
            for p, m, v in zip(self.parameters, self.first, self.second):
                m.mul_(0.9).add_(p.grad, alpha=0.1)
                v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                p.sub_(rate * m / (v.sqrt() + 1e-7))


def train_three_steps(network, start, x, y, make_optimiser, dtype):
    """Run three optimiser steps on one batch; return every recorded value by name."""
    import torch

    p = {name: torch.tensor(value, dtype=dtype) for name, value in start.items()}
    trainable = [name for name in p if network.trainable(name)]
    for name in trainable:
        p[name].requires_grad_(True)
    optimiser = make_optimiser([p[name] for name in trainable])
    x, y = torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)

    recorded, losses = {}, []
    for step in range(1, 4):
        for name in trainable:
            p[name].grad = None
        logits = network.forward(p, x, training=True)
        loss = dice_plus_bce(logits, y)
        loss.backward()
        losses.append(loss.detach())
        if step == 1:
            recorded["logits"] = logits.detach()
            recorded["loss"] = loss.detach()
            for name in trainable:
                recorded[f"grad.{name}"] = p[name].grad.clone()
        optimiser.step()
    recorded["losses"] = torch.stack(losses)
    for name, value in p.items():
        recorded[f"after3.{name}"] = value.detach().clone()
    with torch.no_grad():
        recorded["after3.eval_logits"] = network.forward(p, x, training=False)
    return recorded


def relative_l2(value, truth):
    """|value - truth| / |truth|, of torch tensors, in float64."""
    value, truth = value.double(), truth.double()
    return float((value - truth).norm() / truth.norm())


def float32_floor(single, double, cancels):
    """How far the same PyTorch code lands from the answers when run in float32.

    Tests can scale their tolerances from this. `cancels(name)` says which gradients are
    zero in exact arithmetic, where a relative figure means nothing.
    """
    grads = [k for k in double if k.startswith("grad.")]
    after = [k for k in double if k.startswith("after3.") and k != "after3.eval_logits"]

    def worst(names, measure):
        figure, name = max((measure(single[k], double[k]), k) for k in names)
        return {"figure": float(f"{figure:.2e}"), "tensor": name}

    def max_abs(a, b):
        return float((a.double() - b).abs().max())

    floor = {
        "logits_relative_l2": float(
            f"{relative_l2(single['logits'], double['logits']):.2e}"
        ),
        "grad_relative_l2_worst": worst(
            [k for k in grads if not cancels(k)], relative_l2
        ),
        "after3_max_abs_worst": worst([k for k in after if not cancels(k)], max_abs),
        "after3_eval_logits_max_abs": float(
            f"{max_abs(single['after3.eval_logits'], double['after3.eval_logits']):.2e}"
        ),
    }
    zero = [k for k in grads if cancels(k)]
    if zero:
        floor["zero_grad_max_abs_worst"] = worst(
            zero, lambda a, b: float(a.double().abs().max())
        )
        floor["after3_of_zero_grad_max_abs_worst"] = worst(
            [k for k in after if cancels(k)], max_abs
        )
    return floor


def directional_error(network, start, x, y, gradients):
    """Relative error of the recorded gradient along a random direction, by central
    differences of the loss in float64: says that the answers are a true derivative."""
    import torch

    rng = generator("directional")
    direction = {
        name: torch.tensor(rng.standard_normal(start[name].shape))
        for name in start
        if network.trainable(name)
    }
    # Of length 1, so that h is the whole distance and few rectifiers flip on the way.
    length = math.sqrt(sum(float((d**2).sum()) for d in direction.values()))
    direction = {name: d / length for name, d in direction.items()}
    x, y = torch.tensor(x).double(), torch.tensor(y).double()

    def loss_at(h):
        p = {name: torch.tensor(value).double() for name, value in start.items()}
        for name, d in direction.items():
            p[name] += h * d
        with torch.no_grad():
            return float(dice_plus_bce(network.forward(p, x, training=True), y))

    h = 1e-6
    measured = (loss_at(h) - loss_at(-h)) / (2 * h)
    recorded = sum(
        float((gradients[f"grad.{n}"] * d).sum()) for n, d in direction.items()
    )
    return float(f"{abs(measured / recorded - 1):.1e}")


def network_fixture(network, rng, shape, make_optimiser, cancels):
    import torch

    start = network.initial(rng)
    y = blob_target(rng, shape)
    x = (y + normal(rng, *shape, scale=0.5)).astype(np.float32)
    double = train_three_steps(network, start, x, y, make_optimiser, torch.float64)
    single = train_three_steps(network, start, x, y, make_optimiser, torch.float32)

    tensors = {"input": x, "target": y}
    tensors |= {f"init.{name}": value for name, value in start.items()}
    tensors |= {name: to_numpy(value) for name, value in double.items()}
    measured = {
        "float32_pytorch_against_the_answers": float32_floor(single, double, cancels),
        "gradient_against_central_differences_relative": directional_error(
            network, start, x, y, double
        ),
        "losses": [float(f"{v:.7f}") for v in double["losses"]],
        "parameters": sum(v.size for v in start.values()),
    }
    return tensors, measured


def make_article_unet(rng):
    network = ArticleUNet(filters=2)
    tensors, measured = network_fixture(
        network,
        rng,
        (2, 1, 16, 16, 32),
        lambda parameters: KerasAdam(parameters, lr=1e-3),
        # A convolution's bias is subtracted again by the batch norm behind it.
        cancels=lambda name: name.endswith(".conv.bias"),
    )
    full = ArticleUNet(filters=16)
    sizes = {
        name: value.size for name, value in full.initial(generator("count")).items()
    }
    counts = {
        "total": sum(sizes.values()),
        "trainable": sum(n for name, n in sizes.items() if full.trainable(name)),
    }
    # What Keras reports for the article's own code.
    if counts != {"total": 5_300_257, "trainable": 5_298_273}:
        raise SystemExit(f"the article's network has other parameter counts: {counts}")
    measured["parameters_at_16_filters"] = counts
    return {"article_unet": (tensors, measured)}


def make_residual_unet(rng):
    import torch

    tensors, measured = network_fixture(
        ResidualUNet([4, 6, 8]),
        rng,
        (2, 1, 8, 12, 16),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2),
        cancels=lambda name: False,
    )
    return {"residual_unet": (tensors, measured)}


# ----------------------------------------------------------------------------- operators


def make_ops(rng):
    """One case per operator: inputs, output, a random cotangent, and all gradients."""
    import torch
    import torch.nn.functional as F

    tensors = {}

    def case(name, function, constants=None, **inputs):
        """Record `function(**inputs)`. A tuple result records further outputs by name."""
        leaves = {
            key: torch.tensor(value).double().requires_grad_(True)
            for key, value in inputs.items()
        }
        fixed = {
            key: torch.tensor(value).double()
            for key, value in (constants or {}).items()
        }
        output = function(**leaves, **fixed)
        extra = {}
        if isinstance(output, tuple):
            output, extra = output
        cotangent = normal(rng, *output.shape)
        output.backward(torch.tensor(cotangent).double())
        for key, value in (inputs | (constants or {})).items():
            tensors[f"{name}.{key}"] = np.asarray(value, np.float32)
        tensors[f"{name}.output"] = to_numpy(output)
        tensors[f"{name}.grad_output"] = np.atleast_1d(cotangent)
        for key, leaf in leaves.items():
            tensors[f"{name}.grad_{key}"] = to_numpy(leaf.grad)
        for key, value in extra.items():
            tensors[f"{name}.{key}"] = to_numpy(value)

    def r(*shape, **how):
        return normal(rng, *shape, **how)

    def conv(**attributes):
        return lambda input, weight, bias: F.conv3d(input, weight, bias, **attributes)

    def x():
        return r(2, 3, 5, 6, 7)

    def kernel(*k):
        return r(4, 3, *k, scale=0.3)

    # 8 and 9 channels: the sizes around a register tile of eight.
    case("conv3d_k3", conv(padding=1), input=x(), weight=kernel(3, 3, 3), bias=r(4))
    case(
        "conv3d_k3_wide",
        conv(padding=1),
        input=r(1, 9, 4, 3, 5),
        weight=r(8, 9, 3, 3, 3, scale=0.1),
        bias=r(8),
    )
    case("conv3d_k1", conv(), input=x(), weight=kernel(1, 1, 1), bias=r(4))
    case(
        "conv3d_k3_stride2",
        conv(padding=1, stride=2),
        input=x(),
        weight=kernel(3, 3, 3),
        bias=r(4),
    )
    case(
        "conv3d_k3_dilation2",
        conv(padding=2, dilation=2),
        input=x(),
        weight=kernel(3, 3, 3),
        bias=r(4),
    )
    case(
        "conv3d_k112_pad_after",
        conv_pad_after,
        input=x(),
        weight=kernel(1, 1, 2),
        bias=r(4),
    )
    case(
        "conv_transpose3d_k3_stride2_crop_last",
        conv_transpose_same,
        input=r(2, 3, 3, 4, 5),
        weight=r(3, 2, 3, 3, 3, scale=0.3),
        bias=r(2),
    )
    case(
        "conv_transpose3d_k2_stride2",
        lambda input, weight, bias: F.conv_transpose3d(input, weight, bias, stride=2),
        input=r(2, 3, 3, 4, 5),
        weight=r(3, 2, 2, 2, 2, scale=0.3),
        bias=r(2),
    )
    case("max_pool3d_k2", lambda input: F.max_pool3d(input, 2), input=x())
    case(
        "max_pool3d_k3_stride2_pad1",
        lambda input: F.max_pool3d(input, 3, 2, 1),
        input=x(),
    )

    def batch_norm(input, weight, bias):
        mean = input.mean((0, 2, 3, 4))
        var = input.var((0, 2, 3, 4), correction=0)
        output = F.batch_norm(input, None, None, weight, bias, training=True, eps=1e-3)
        return output, {"mean": mean, "variance": var}

    def affine(c):
        return {"weight": r(c, scale=0.3, shift=1.0), "bias": r(c)}

    def shifted(c):
        return r(2, c, 4, 5, 3, scale=3.0, shift=2.0)

    case("batch_norm_train_eps1e-3", batch_norm, input=shifted(3), **affine(3))
    case(
        "instance_norm_eps1e-5",
        lambda input, weight, bias: F.instance_norm(
            input, weight=weight, bias=bias, eps=1e-5
        ),
        input=shifted(3),
        **affine(3),
    )
    case(
        "group_norm_2_eps1e-5",
        lambda input, weight, bias: F.group_norm(input, 2, weight, bias, eps=1e-5),
        input=shifted(6),
        **affine(6),
    )

    def small():
        return r(2, 2, 3, 4, 5)

    case(
        "upsample_nearest_2",
        lambda input: F.interpolate(input, scale_factor=2, mode="nearest"),
        input=small(),
    )
    for align in (False, True):
        case(
            f"upsample_trilinear_2_align_corners_{str(align).lower()}",
            lambda input: F.interpolate(
                input, scale_factor=2, mode="trilinear", align_corners=align
            ),
            input=small(),
        )

    def wide():
        return r(2, 2, 3, 4, 5, scale=2.5)

    case("relu", F.relu, input=wide())
    case("leaky_relu_slope1e-2", lambda input: F.leaky_relu(input, 0.01), input=wide())
    case("sigmoid", torch.sigmoid, input=wide())
    case("gelu_erf", F.gelu, input=wide())
    case("gelu_tanh", lambda input: F.gelu(input, approximate="tanh"), input=wide())
    case(
        "softmax_channels",
        lambda input: input.softmax(1),
        input=r(2, 3, 3, 4, 5, scale=3.0),
    )

    target = (rng.random((2, 1, 5, 4, 7)) > 0.6).astype(np.float32)
    target[1, :, :, :, 3:] = 0  # the samples differ, so that the two Dice losses do
    for name, loss in {
        "loss_dice": soft_dice,
        "loss_dice_per_sample": soft_dice_per_sample,
        "loss_bce": lambda logits, target: F.binary_cross_entropy_with_logits(
            logits, target
        ),
        "loss_focal_gamma2_alpha025": focal,
    }.items():
        case(name, loss, {"target": target}, logits=r(*target.shape, scale=4.0))
    return {"ops": (tensors, {"cases": len({k.rsplit(".", 1)[0] for k in tensors})})}


# ------------------------------------------------------------------------------------ N4


def head_phantom(rng, shape):
    """(uint8 volume, head mask, brain mask): tissue shells, smooth bias, Rician noise.

    No voxel is 0: inside its mask ITK leaves voxels <= 0 unlogged, which is a defect to
    avoid and not an answer to match.
    """
    from scipy import ndimage as ndi

    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    x, y, z = axes
    radius = np.sqrt((x / 0.80) ** 2 + (y / 0.88) ** 2 + (z / 0.84) ** 2)

    def texture(sigma):
        noise = ndi.gaussian_filter(rng.standard_normal(shape), sigma, mode="nearest")
        return noise / noise.std()

    folds = radius + 0.035 * texture(2.5)
    tissue = np.full(shape, 4.0)  # air
    tissue[radius < 1.0] = 170.0 + 20 * np.sign(x[radius < 1.0])  # scalp
    tissue[radius < 0.90] = 35.0  # skull
    tissue[radius < 0.82] = 50.0  # CSF
    tissue[folds < 0.77] = 95.0  # grey matter
    tissue[folds < 0.60] = 140.0  # white matter
    ventricles = (np.abs(x) / 0.16) ** 2 + (y / 0.35) ** 2 + (z / 0.2) ** 2 < 1
    tissue[ventricles] = 45.0
    tissue = ndi.gaussian_filter(tissue, 0.6)

    log_bias = 0.45 * np.exp(-((x - 0.6) ** 2 + (y - 0.7) ** 2 + (z - 0.4) ** 2) / 0.9)
    log_bias -= 0.35 * np.exp(-((x + 0.5) ** 2 + (y + 0.6) ** 2 + (z + 0.6) ** 2) / 0.8)
    log_bias += 0.1 * np.cos(2.5 * x + 0.3) * np.cos(2.2 * y - 0.4) + 0.06 * z
    signal = tissue * np.exp(log_bias)
    noise = 3.0 * rng.standard_normal((2, *shape))
    magnitude = np.hypot(signal + noise[0], noise[1])
    volume = np.clip(np.round(magnitude), 1, 255).astype(np.uint8)
    return volume, radius < 0.95, folds < 0.74


def shrink_offset(n, factor):
    """First voxel that ITK's Shrink picks along an axis of n; refuses the tying sizes,
    where ITK's choice depends on how spacing and origin were rounded."""
    size = max(1, n // factor)
    offset = (n - 1) / 2 - factor * (size - 1) / 2
    if (offset + 0.5) % 1 == 0:
        raise SystemExit(f"{n} voxels shrunk by {factor} tie")
    return math.floor(offset + 0.5)


def sitk_n4(volume, mask, voxel, shrink, iterations):
    """ITK's log field on the native grid, [x, y, z], convergence test switched off."""
    import SimpleITK as sitk

    def image(array):
        result = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        result.SetSpacing([float(v) for v in voxel])
        result.SetOrigin([-30.0, 12.5, 7.25])
        return result

    # One thread: ITK sums in float32, in an order that depends on their number.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    native = image(volume.astype(np.float32))
    small = sitk.Shrink(native, [shrink] * 3)
    offsets = [shrink_offset(n, shrink) for n in volume.shape]
    picked = volume[tuple(slice(o, None, shrink) for o in offsets)]
    picked = picked[tuple(slice(n // shrink) for n in volume.shape)]
    if not np.array_equal(sitk.GetArrayFromImage(small).transpose(2, 1, 0), picked):
        raise SystemExit("ITK's Shrink is not the strided pick that the tests assume")

    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(iterations)
    n4.SetConvergenceThreshold(0.0)
    inside = sitk.GetArrayFromImage(small).ravel()
    images = [small]
    if mask is not None:
        # SimpleITK counts only label 1.
        images.append(sitk.Shrink(image((mask > 0).astype(np.uint8)), [shrink] * 3))
        inside = inside[sitk.GetArrayFromImage(images[1]).ravel() > 0]
    # ITK looks for the extremes with "if above max ... else if below min", so the first
    # voxel (x fastest) is never taken for the minimum; where it is one, ITK's histogram
    # starts too high. Not an answer to match.
    if inside[0] < 1.5 * inside.min():
        raise SystemExit("the volume or mask begins at a dark voxel; change it")
    n4.Execute(*images)
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(native))
    return field.transpose(2, 1, 0), offsets


# rms and max difference of the log field that an implementation in float32 should keep.
N4_BAR = {"bar_rms": scalar(1e-4), "bar_max": scalar(1e-3)}
FIELD_STEP = 4


def n4_setting(volume, voxel, shrink, iterations, offsets):
    return {
        "volume": volume,
        "voxel_size": np.array(voxel, np.float32),
        "shrink": scalar(shrink),
        "shrink_offset": np.array(offsets, np.float32),
        "iterations": np.array(iterations, np.float32),
        "field_step": scalar(FIELD_STEP),
    } | N4_BAR


def n4_answer(field):
    """What is kept of a field: every fourth voxel, and its range at full resolution."""
    return {
        "log_field": np.ascontiguousarray(
            field[::FIELD_STEP, ::FIELD_STEP, ::FIELD_STEP], np.float32
        ),
        "log_field_range": np.array([field.min(), field.max()], np.float32),
    }


def make_n4(rng):
    files = {}

    shape, voxel, shrink, iterations = (80, 93, 71), (1.0, 1.0, 1.0), 3, [20, 10, 10, 5]
    volume, head, _ = head_phantom(rng, shape)
    tensors, measured = {}, {"mask_voxels": int(head.sum())}
    # The head rather than the brain: ITK counts the brightest voxel in its histogram or
    # not by how a float32 quotient is rounded, and among the 2,000 voxels of a shrunken
    # brain that one voxel shifts the whole field by up to 1e-4.
    for name, mask in (("no_mask", None), ("mask", head)):
        field, offsets = sitk_n4(volume, mask, voxel, shrink, iterations)
        tensors |= {f"{name}.{key}": value for key, value in n4_answer(field).items()}
        measured[f"{name}_log_field_std"] = float(f"{field.std():.4f}")
    tensors |= n4_setting(volume, voxel, shrink, iterations, offsets)
    # A bit a voxel, least significant first, to keep the file small.
    tensors["mask_bits"] = np.packbits(head, bitorder="little")
    files["n4_head"] = (tensors, measured)

    shape, voxel, shrink, iterations = (61, 47, 33), (0.9, 1.25, 3.0), 2, [10, 10]
    volume, _, brain = head_phantom(rng, shape)
    mask = np.where(brain, 255, 0).astype(np.uint8)
    field, offsets = sitk_n4(volume, mask, voxel, shrink, iterations)
    tensors = {f"mask.{key}": value for key, value in n4_answer(field).items()}
    tensors |= n4_setting(volume, voxel, shrink, iterations, offsets)
    tensors["mask"] = mask
    measured = {
        "mask_voxels": int(brain.sum()),
        "mask_log_field_std": float(f"{field.std():.4f}"),
    }
    files["n4_anisotropic"] = (tensors, measured)
    return files


# ---------------------------------------------------------------------------- resampling


def rotation(angles):
    """Rotation about x, then y, then z, in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[b, a] = math.sin(angle)
        turn[a, b] = -math.sin(angle)
        result = turn @ result
    return result


def source_coordinates(source_affine, target_affine, shape):
    """Voxel coordinates in the source of every target voxel: [3, x, y, z], float64."""
    matrix = np.linalg.inv(source_affine.astype(np.float64)) @ target_affine
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    return np.tensordot(matrix[:3, :3], grid, 1) + matrix[:3, 3].reshape(3, 1, 1, 1)


def keys_weights(fraction, a=-0.5):
    """Keys' four cubic-convolution weights for taps floor - 1 .. floor + 2."""
    weights = []
    for tap in (-1, 0, 1, 2):
        t = np.abs(fraction - tap)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * (t**3 - 5 * t**2 + 8 * t - 4)
        weights.append(np.where(t < 1, near, far))
    return weights


def keys_cubic(source, coordinates, beyond=0.0):
    """Keys' cubic convolution (a = -1/2, Catmull-Rom). Taps past the border repeat the
    border voxel; samples more than `beyond` voxels past the outer centres are 0."""
    base = np.floor(coordinates).astype(int)
    weights = [keys_weights(c - b) for c, b in zip(coordinates, base)]
    clamp = [
        [np.clip(base[axis] + tap, 0, source.shape[axis] - 1) for tap in (-1, 0, 1, 2)]
        for axis in range(3)
    ]
    result = np.zeros(coordinates.shape[1:])
    for i in range(4):
        for j in range(4):
            for k in range(4):
                value = source[clamp[0][i], clamp[1][j], clamp[2][k]].astype(np.float64)
                result += weights[0][i] * weights[1][j] * weights[2][k] * value
    inside = np.ones(result.shape, bool)
    for c, n in zip(coordinates, source.shape):
        inside &= (c >= -beyond) & (c <= n - 1 + beyond)
    return np.where(inside, result, 0.0)


def box_average(volume, axis, width):
    """Average over `width` voxels along an axis, each weighted by the part of it that is
    covered; past the border the average is over what remains."""
    from scipy import ndimage as ndi

    radius = math.ceil(width / 2 - 0.5)
    taps = np.arange(-radius, radius + 1)
    weights = np.minimum(width / 2, taps + 0.5) - np.maximum(-width / 2, taps - 0.5)
    total = ndi.correlate1d(np.ones_like(volume), weights, axis, mode="constant")
    return ndi.correlate1d(volume, weights, axis, mode="constant") / total


def area_average(source, source_affine, target_affine, shape):
    """Boxes as wide as the target's step along every source axis where it is the larger,
    then linear interpolation (scipy), up to half a voxel past the outer centres."""
    from scipy import ndimage as ndi

    matrix = np.linalg.inv(source_affine) @ target_affine
    volume = source.astype(np.float64)
    for axis, step in enumerate(np.linalg.norm(matrix[:3, :3], axis=1)):
        if step > 1.001:
            volume = box_average(volume, axis, step)
    coordinates = source_coordinates(source_affine, target_affine, shape)
    result = ndi.map_coordinates(volume, coordinates, order=1, mode="nearest")
    for c, n in zip(coordinates, source.shape):
        result[(c < -0.5) | (c >= n - 0.5)] = 0
    return result


def sitk_resample(source, source_affine, target_affine, shape, kind):
    """SimpleITK's resampling of [x, y, z] arrays; both matrices without shear."""
    import SimpleITK as sitk

    def placed(image, affine):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing)
        image.SetDirection((affine[:3, :3] / spacing).ravel())
        image.SetOrigin(affine[:3, 3])
        return image

    image = placed(sitk.GetImageFromArray(source.transpose(2, 1, 0)), source_affine)
    target = placed(sitk.Image([int(n) for n in shape], sitk.sitkFloat32), target_affine)
    method = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear}[kind]
    result = sitk.Resample(image, target, sitk.Transform(), method, 0.0, sitk.sitkFloat32)
    return sitk.GetArrayFromImage(result).transpose(2, 1, 0)


def make_resample(rng):
    import nibabel as nib
    from nilearn.image import resample_img

    source = rng.random((15, 19, 12)).astype(np.float32)
    source_affine = np.eye(4)
    source_affine[:3, :3] = rotation((0.1, -0.15, 0.2)) @ np.diag([-0.9, 1.1, 1.3])
    source_affine[:3, 3] = [7.0, -9.0, -6.0]
    shape = (13, 14, 11)
    target_affine = np.eye(4)
    target_affine[:3, :3] = rotation((-0.05, 0.1, 0.0)) @ np.diag([1.2, 1.6, 1.3])
    middle = (
        source_affine[:3, :3] @ (np.array(source.shape) - 1) / 2 + source_affine[:3, 3]
    )
    target_affine[:3, 3] = middle - target_affine[:3, :3] @ (np.array(shape) - 1.0) / 2
    # The tests read float32, so that is what every answer must start from.
    source_affine = source_affine.astype(np.float32).astype(np.float64)
    target_affine = target_affine.astype(np.float32).astype(np.float64)

    coordinates = source_coordinates(source_affine, target_affine, shape)
    last = np.array(source.shape).reshape(3, 1, 1, 1) - 1
    to_tie = np.abs(coordinates - np.floor(coordinates) - 0.5)
    # Half a voxel past it lies the other convention's border; that is a tie as well.
    to_border = np.minimum(np.abs(coordinates), np.abs(coordinates - last))
    if min(to_tie.min(), to_border.min()) < 1e-5:
        raise SystemExit("a sample lies on a tie or on the border; change the affines")

    tensors = {
        "source": source,
        "source_affine": source_affine.astype(np.float32),
        "target_affine": target_affine.astype(np.float32),
    }

    def nilearn(source, source_affine, target_affine, shape, kind):
        result = resample_img(
            nib.Nifti1Image(source, source_affine),
            target_affine,
            shape,
            interpolation=kind,
            copy_header=True,
            force_resample=True,
        )
        return np.ascontiguousarray(result.get_fdata(), np.float32)

    for kind in ("nearest", "linear"):
        tensors[kind] = nilearn(source, source_affine, target_affine, shape, kind)
        tensors[f"clamped.{kind}"] = np.ascontiguousarray(
            sitk_resample(source, source_affine, target_affine, shape, kind)
        )
    tensors["cubic"] = keys_cubic(source, coordinates).astype(np.float32)
    tensors["clamped.cubic"] = keys_cubic(source, coordinates, 0.5).astype(np.float32)
    inside = np.all((coordinates >= 0) & (coordinates <= last), 0)
    measured = {
        "nearest_tie_distance_voxels": float(f"{to_tie.min():.1e}"),
        "border_distance_voxels": float(f"{to_border.min():.1e}"),
        "samples_inside": int(inside.sum()),
        "samples": int(inside.size),
    }

    # The article's grid: 2 mm centred on an even number of 1 mm voxels, every sample a tie.
    ties = rng.random((12, 10, 8)).astype(np.float32)
    ties_affine, ties_target = np.eye(4), np.diag([2.0, 2.0, 2.0, 1.0])
    ties_target[:3, 3] = 0.5
    tensors["ties.source"] = ties
    tensors["ties.source_affine"] = ties_affine.astype(np.float32)
    tensors["ties.target_affine"] = ties_target.astype(np.float32)
    for kind in ("nearest", "linear"):
        answer = nilearn(ties, ties_affine, ties_target, (6, 5, 4), kind)
        tensors[f"ties.{kind}"] = answer

    area_cases = {
        # 0.5 x 0.5 x 5 mm slices to 2 mm: two axes averaged, z interpolated.
        "area_thick": ((26, 23, 6), (0.5, 0.5, 5.0), (6, 5, 12), (2.0, 2.2, 2.0), 0.0),
        # 1 mm to 2 mm.
        "area_halve": ((12, 10, 14), (1.0, 1.0, 1.0), (6, 5, 7), (2.0, 2.0, 2.0), 0.0),
        # Fractional ratios on all axes, turned.
        "area_turned": ((17, 15, 16), (1.0, 1.2, 0.8), (9, 7, 8), (1.75, 2.5, 1.5), 0.2),
    }
    for name, (n_source, step, n_target, target_step, angle) in area_cases.items():
        volume = rng.random(n_source).astype(np.float32)
        source_affine, target_affine = np.diag([*step, 1.0]), np.eye(4)
        source_affine[:3, 3] = (-20.0, 5.0, 11.0)
        target_affine[:3, :3] = rotation((angle, -angle, angle)) @ np.diag(target_step)
        # Both grids share their middle.
        middle = source_affine @ [*((np.array(n_source) - 1) / 2), 1]
        half = target_affine[:3, :3] @ ((np.array(n_target) - 1) / 2)
        target_affine[:3, 3] = middle[:3] - half
        source_affine = source_affine.astype(np.float32).astype(np.float64)
        target_affine = target_affine.astype(np.float32).astype(np.float64)
        answer = area_average(volume, source_affine, target_affine, n_target)
        tensors[f"{name}.source"] = volume
        tensors[f"{name}.source_affine"] = source_affine.astype(np.float32)
        tensors[f"{name}.target_affine"] = target_affine.astype(np.float32)
        tensors[f"{name}.output"] = np.ascontiguousarray(answer, np.float32)
    return {"resample": (tensors, measured)}


# ------------------------------------------------------------------------------- metrics


def monai_metrics(prediction, truth, voxel):
    """Dice, IoU, HD95 and ASSD of two masks as MONAI computes them; distances in mm."""
    import monai.metrics as m
    import torch

    a, b = (torch.tensor(v[None, None].astype(np.float32)) for v in (prediction, truth))
    distances = {"include_background": True, "spacing": voxel}
    values = {
        "dice": m.compute_dice(a, b),
        "iou": m.compute_iou(a, b),
        "hd95": m.compute_hausdorff_distance(a, b, percentile=95, **distances),
        "assd": m.compute_average_surface_distance(a, b, symmetric=True, **distances),
    }
    return {name: float(value.item()) for name, value in values.items()}


def scipy_metrics(prediction, truth, voxel):
    """The same from their definitions: the surface of a mask is the mask less its erosion
    by the six face neighbours; what lies beyond the volume counts as background."""
    from scipy import ndimage as ndi

    surface = [m & ~ndi.binary_erosion(m) for m in (prediction, truth)]
    there, back = (
        ndi.distance_transform_edt(~surface[1 - k], sampling=voxel)[surface[k]]
        for k in (0, 1)
    )
    both, either = (prediction & truth).sum(), (prediction | truth).sum()
    return {
        "dice": 2 * both / (prediction.sum() + truth.sum()),
        "iou": both / either,
        # The larger of the two directed percentiles.
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        # The mean over the surface voxels of both masks together.
        "assd": np.concatenate([there, back]).mean(),
    }


def make_metrics(rng):
    from scipy import ndimage as ndi

    shape = (24, 22, 26)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum((a / r) ** 2 for a, r in zip(axes, (0.7, 0.75, 0.68))))
    wobble = ndi.gaussian_filter(rng.standard_normal(shape), 2.0)
    truth = radius < 1
    prediction = radius + 0.12 * wobble / wobble.std() < 0.97
    prediction[1:4, 2:4, 0:3] = True  # a stray piece that touches the border
    inner = np.roll(truth, 3, 0) & (radius < 0.8)  # much smaller, hollow, and shifted
    inner &= ~(radius < 0.4)

    tensors, worst = {"truth": truth.astype(np.uint8)}, 0.0
    for kind, mask in (("wobbly", prediction), ("hollow", inner)):
        tensors[kind] = mask.astype(np.uint8)
        for name, voxel in (("isotropic", (1.0, 1.0, 1.0)), ("thick", (0.5, 0.5, 5.0))):
            figures = monai_metrics(mask, truth, voxel)
            for key, value in scipy_metrics(mask, truth, voxel).items():
                worst = max(worst, abs(value / figures[key] - 1))
            figures["volume_error_percent"] = 100 * (mask.sum() / truth.sum() - 1)
            tensors[f"{name}.voxel_size"] = np.array(voxel, np.float32)
            tensors |= {
                f"{kind}.{name}.{key}": scalar(value) for key, value in figures.items()
            }
    if worst > 2e-6:
        raise SystemExit(f"MONAI and the definitions differ by {worst:.1e}")
    measured = {"monai_against_scipy_relative": float(f"{worst:.1e}")}
    return {"metrics": (tensors, measured)}


# ------------------------------------------------------------------- published networks


def make_published(_rng):
    """Logits of small copies of published networks; inputs and weights follow from a formula."""
    import published_networks

    tensors, parameters = {}, {}
    for name, (_, extents, step) in published_networks.NETWORKS.items():
        tensors[f"{name}.logits"], parameters[name] = published_networks.logits(name)
        tensors[f"{name}.extents"] = np.array(extents, np.float32)
        tensors[f"{name}.step"] = scalar(step)
    return {"published": (tensors, {"parameters": parameters})}


def make_torch_files(_rng):
    """One state dict in PyTorch's formats, and what it holds."""
    import tempfile

    import published_networks

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        state = published_networks.torch_files(folder)
        files = {path.name: (path.read_bytes(), {}) for path in folder.iterdir()}
    tensors = {k: to_numpy(v) for k, v in state.items() if v.is_floating_point()}
    return dict(sorted(files.items())) | {"torch_files": (tensors, {})}


def make_nnunet(_rng):
    """Checkpoints as nnU-Net writes them, and what their networks say, whole and in patches."""
    import tempfile

    import nnunet_networks

    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in nnunet_networks.PLANS:
            path = Path(folder) / f"{name.replace('-', '_')}.pth"
            nnunet_networks.checkpoint(name, nnunet_networks.PATCH, path)
            files[path.name] = (path.read_bytes(), {})
    return files | {"nnunet": (nnunet_networks.fixture(), {})}


def make_onnx(_rng):
    """A network as PyTorch exports it, and its logits."""
    import tempfile

    import onnx_network

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "every.onnx"
        logits = onnx_network.export(path)
        return {path.name: (path.read_bytes(), {}), "onnx": ({"logits": logits}, {})}


def make_keras(_rng):
    """A network as Keras saves it, and its logits."""
    import tempfile

    import keras_network

    with tempfile.TemporaryDirectory() as folder:
        logits = keras_network.save(Path(folder))
        files = {path.name: (path.read_bytes(), {}) for path in Path(folder).iterdir()}
    return dict(sorted(files.items())) | {"keras": ({"logits": logits}, {})}


# ---------------------------------------------------------------------------------- main

# Fixture -> (function, packages whose versions matter). One may write several files.
def make_colin27(_rng):
    """A brain mask of Colin27, from $COLIN27_MASK: every third voxel along each axis."""
    import nibabel

    path = os.environ.get("COLIN27_MASK")
    if path is None:
        print("colin27: COLIN27_MASK names no mask; the fixture stays as it is")
        return {}
    image = nibabel.load(path)
    mask = np.asanyarray(image.dataobj) > 0
    coarse = mask[::3, ::3, ::3]
    tensors = {
        "shape": np.array(mask.shape, np.float32),
        "affine": image.affine.astype(np.float32),
        "bits": np.packbits(coarse),
    }
    return {"colin27": (tensors, {"brain_ml": round(float(mask.sum()) / 1000, 1)})}


FIXTURES = {
    "article_unet": (make_article_unet, ["torch"]),
    "residual_unet": (make_residual_unet, ["torch"]),
    "ops": (make_ops, ["torch"]),
    "n4": (make_n4, ["SimpleITK", "scipy"]),
    "resample": (make_resample, ["nilearn", "nibabel", "scipy", "SimpleITK"]),
    "metrics": (make_metrics, ["monai", "torch", "scipy"]),
    "colin27": (make_colin27, ["nibabel"]),
    "published": (make_published, ["torch"]),
    "torch_files": (make_torch_files, ["torch"]),
    "nnunet": (make_nnunet, ["torch"]),
    "onnx": (make_onnx, ["torch", "onnx"]),
    "keras": (make_keras, ["keras", "h5py"]),
}

ABOUT = {
    "article_unet": "The article's network as coded, 2 base filters, no dropout: first "
    "step's logits, loss and gradients; parameters, running statistics and eval logits "
    "after 3 Keras-Adam steps.",
    "residual_unet": "Residual double-convolution U-Net with instance norm, widths 4 6 8: "
    "first step's logits, loss and gradients; parameters and logits after 3 AdamW steps.",
    "ops": "One case per operator on odd sizes: inputs, output, random cotangent and all "
    "gradients, from PyTorch.",
    "n4_head": "Head phantom, shrink 3, iterations 20 10 10 5, tolerance 0: SimpleITK's "
    "log field without a mask and with the head as mask, every 4th voxel.",
    "n4_anisotropic": "Head phantom of 0.9 x 1.25 x 3 mm, shrink 2, iterations 10 10, "
    "tolerance 0, brain mask of 255s: SimpleITK's log field, every 4th voxel.",
    "resample": "Oblique resampling that ends at the outer centres (nilearn) and half a "
    "voxel past them (SimpleITK), nearest and linear; Keys' cubic; a grid of ties "
    "(nilearn); box averages, aligned and turned (scipy).",
    "metrics": "Two masks against a third: MONAI's Dice, IoU, HD95 and ASSD, and the signed "
    "volume error, at two voxel sizes.",
    "colin27": "HD-BET's (version 1) mask of Colin27, ch2.nii.gz of Debian's mricron-data: every third "
    "voxel from the first along each axis, z fastest, packed from the highest bit.",
    "published": "Small copies of published networks (tools/published_networks.py): logits of brain at every "
    "so many voxels.",
    "torch_zip.pt": "A checkpoint as PyTorch writes it: a state dict of f32 (transposed), f16, f64 (a "
    "slice) and i64 among other entries.",
    "torch_old.pt": "The same as PyTorch before 1.6 wrote it.",
    "torch_script.pt": "A TorchScript module with the same tensors.",
    "torch_files": "The floating-point tensors in torch_*.pt.",
    "every.onnx": "A small network with every operator of ours that PyTorch has, as it exports it "
    "(tools/onnx_network.py).",
    "onnx": "Its logits for an input of a formula.",
    "every.h5": "A small network with the layers of Keras that have one here, as it saves whole models in "
    "HDF5 (tools/keras_network.py).",
    "every.keras": "The same as its own archive, packed.",
    "keras": "Their logits for an input of a formula.",
    "nnunet_plain.pth": "A checkpoint as nnU-Net writes it (tools/nnunet_networks.py), of a small plain U-Net with "
    "strides and kernels that differ by axis.",
    "nnunet_residual.pth": "The same of a U-Net whose encoder has residual blocks.",
    "nnunet": "What both say of a grid, every second voxel along the last two axes; what the plain one says of a "
    "volume cropped, brought to scale and seen in overlapping patches, without mirroring and with it.",
}


def main():
    parser = argparse.ArgumentParser(
        description="Make the golden files that the Rust tests compare with."
    )
    parser.add_argument("--only", choices=FIXTURES, help="make one fixture")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tests/fixtures"),
        help="folder to write to (default: %(default)s)",
    )
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    manifest_path = options.out / "manifest.json"
    files = {}
    if manifest_path.exists():
        files = json.loads(manifest_path.read_text())["files"]
    for fixture, (make, packages) in FIXTURES.items():
        if options.only not in (None, fixture):
            continue
        for name, (tensors, measured) in make(generator(fixture)).items():
            if isinstance(tensors, bytes):
                path = options.out / name
                path.write_bytes(tensors)
                tensors = {}
            else:
                path = options.out / f"{name}.safetensors"
                whole = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
                save_file(whole, path)
            data = path.read_bytes()
            files[path.name] = {
                "about": ABOUT[name],
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "tensors": len(tensors),
                "made_with": {"python": platform.python_version()}
                | {p: version(p) for p in sorted(["numpy", "safetensors", *packages])},
                "measured": measured,
            }
            print(f"{path}: {len(tensors)} tensors, {len(data)} bytes")
    manifest = {"generator": "tools/make_fixtures.py", "seed": SEED, "files": files}
    manifest_path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    print(f"{sum(f['bytes'] for f in files.values())} bytes in all")


if __name__ == "__main__":
    main()
