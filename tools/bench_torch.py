#!/usr/bin/env python3
"""PyTorch's side of tools/gpu-bench.sh.

    bench_torch.py measure [--quick] --out torch.json   times convolutions and the article's network
    bench_torch.py table DIR                            ratios of DIR/*.json of `trephine bench` to DIR/torch.json

On CUDA where there is one, else on two threads of the processor. f32 without TF32, and autocast to f16 with
channels_last_3d (bfloat16 is what the processor offers). Times are medians, by CUDA events where there are any.
"""

import argparse
import json
import pathlib
import statistics
import time

DIRECTIONS = ("forward", "grad-input", "grad-weight")


def convolutions(quick):
    """Name of the shape, channels, extents: what gpu-bench.sh gives to trephine."""
    small, large = ((24, 32, 40), (12, 16, 20)) if quick else ((96, 128, 160), (48, 64, 80))
    return [(32, small), (64, large)]


def measure(quick, out):
    import torch
    import torch.nn.functional as F
    from torch import nn

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    if not cuda:
        torch.set_num_threads(2)
    half = torch.float16 if cuda else torch.bfloat16
    torch.manual_seed(1)

    def seconds(run, budget=0.5 if quick else 2.0, least=3 if quick else 7):
        samples = []
        for ix in range(200):
            if cuda:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                run()
                end.record()
                torch.cuda.synchronize()
                sample = begin.elapsed_time(end) * 1e-3
            else:
                begun = time.perf_counter()
                run()
                sample = time.perf_counter() - begun
            if ix >= (3 if cuda else 1):  # the first ones choose algorithms and allocate
                samples.append(sample)
            if len(samples) >= least and sum(samples) > budget:
                break
        return {"median": statistics.median(samples) * 1e3, "min": min(samples) * 1e3, "max": max(samples) * 1e3}

    rows = []

    def row(name, direction, dtype, run):
        try:
            ms = seconds(run)
        except RuntimeError as error:  # a type that this device does not offer
            print(f"{name} {direction} {dtype}: {error}")
            return
        rows.append({"name": name, "direction": direction, "dtype": dtype, "ms": ms})

    for channels, shape in convolutions(quick):
        for dtype, layout, label in (
            (torch.float32, torch.contiguous_format, "f32"),
            (torch.float32, torch.channels_last_3d, "f32 channels_last_3d"),
            (half, torch.channels_last_3d, "f16"),
        ):
            like = {"device": device, "dtype": dtype}
            x = torch.randn(1, channels, *shape, **like).to(memory_format=layout)
            w = torch.randn(channels, channels, 3, 3, 3, **like).to(memory_format=layout)
            dy = torch.randn(1, channels, *shape, **like).to(memory_format=layout)

            def gradients(mask, x=x, w=w, dy=dy):
                return torch.ops.aten.convolution_backward(
                    dy, x, w, None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, mask
                )

            name = f"conv3d-{channels}"
            with torch.no_grad():
                row(name, "forward", label, lambda x=x, w=w: F.conv3d(x, w, padding=1))
                row(name, "grad-input", label, lambda: gradients([True, False, False]))
                row(name, "grad-weight", label, lambda: gradients([False, True, False]))

    class Block(nn.Module):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.conv = nn.Conv3d(c_in, c_out, 3, padding=1)
            self.norm = nn.BatchNorm3d(c_out, eps=1e-3, momentum=0.01)

        def forward(self, x):
            return F.relu(self.norm(self.conv(x)))

    class Article(nn.Module):
        """The article's network as `trephine::model::article` describes it."""

        def __init__(self, filters=16, levels=4, dropout=0.05):
            super().__init__()
            widths = [filters << level for level in range(levels)]
            self.enc = nn.ModuleList(Block(a, b) for a, b in zip([1] + widths, widths))
            self.mid = nn.Sequential(Block(widths[-1], 2 * widths[-1]), Block(2 * widths[-1], 2 * widths[-1]))
            self.up = nn.ModuleList(nn.ConvTranspose3d(2 * c, c, 3, stride=2) for c in widths)
            self.dec = nn.ModuleList(Block(2 * c, c) for c in widths)
            self.drop = nn.Dropout(dropout)
            self.out = nn.Conv3d(filters, 1, (1, 1, 2))

        def forward(self, x):
            skips = []
            for enc in self.enc:
                skips.append(enc(x))
                x = self.drop(F.max_pool3d(skips[-1], 2))
            x = self.mid(x)
            for up, dec, skip in reversed(list(zip(self.up, self.dec, skips))):
                x = self.drop(F.relu(up(x)[..., :-1, :-1, :-1]))
                x = dec(torch.cat([x, self.drop(skip)], 1))
            return self.out(F.pad(x, (0, 1)))

    grid = (32, 32, 48) if quick else (96, 128, 160)
    net = Article().to(device)
    count = sum(p.numel() for p in net.parameters())
    count += sum(b.numel() for name, b in net.named_buffers() if "running" in name)
    assert count == 5_300_257, f"{count} parameters: this is another network"
    image = torch.randn(1, 1, *grid, device=device)
    target = (torch.rand(1, 1, *grid, device=device) < 0.3).float()

    def step(net, optimiser, autocast, scaler, image):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=half, enabled=autocast):
            logits = net(image)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        # Focal, gamma 2, alpha 0.25.
        p = torch.sigmoid(logits.float())
        p_t = p * target + (1 - p) * (1 - target)
        alpha = 0.25 * target + 0.75 * (1 - target)
        loss = (alpha * (1 - p_t) ** 2 * loss).mean()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    def infer(net, autocast, image):
        with torch.inference_mode(), torch.autocast(device.type, dtype=half, enabled=autocast):
            net(image)

    for label, autocast in (("f32", False), ("f16", True)):
        layout = torch.channels_last_3d if autocast else torch.contiguous_format
        net = net.to(memory_format=layout)
        x = image.to(memory_format=layout)
        net.eval()
        row("article", "forward", label, lambda: infer(net, autocast, x))
        net.train()
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, eps=1e-7)
        scaler = torch.amp.GradScaler(device.type, enabled=autocast and cuda)
        row("article", "train", label, lambda: step(net, optimiser, autocast, scaler, x))

    report = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else f"processor, {torch.get_num_threads()} threads",
        "half": str(half).removeprefix("torch."),
        "grid": grid,
        "rows": rows,
    }
    out.write_text(json.dumps(report, indent=2) + "\n")


def ours(folder):
    """(name, direction, dtype) to (variant, milliseconds, rest) of the fastest variant."""
    best = {}
    for channels in (32, 64):
        for direction in (*DIRECTIONS, "forward-f16"):
            for row in load(folder / f"conv3d-{channels}-{direction}.json").get("rows", []):
                direction = row["direction"]
                key = (f"conv3d-{channels}", direction, row["dtype"])
                ms = row["ms"]["median"]
                if key not in best or ms < best[key][1]:
                    rest = f"{row['gflops']:.0f} GFLOP/s, {row['roofline_fraction']:.0%} of the roofline"
                    best[key] = (row["variant"], ms, rest)
    for run in ("forward", "train", "forward-f16"):
        total = load(folder / f"article-{run}.json").get("total")
        if total:
            rest = f"{total['gflops']:.0f} GFLOP/s, {total['roofline_fraction']:.0%} of the roofline"
            rest += f", {total['peak_buffer_bytes'] / 2**20:.0f} MiB"
            best["article", total["direction"], total["dtype"]] = ("", total["ms"]["median"], rest)
    return best


def load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def table(folder):
    best, torch = ours(folder), load(folder / "torch.json")
    report = load(folder / "article-forward.json") or load(folder / "conv3d-32-forward.json")
    adapter, peak = report.get("adapter", {}), report.get("peak", {})
    print(f"ours:    {adapter.get('name')} ({adapter.get('driver')}), commit {report.get('versions', {}).get('commit')}")
    print("peak:    " + ", ".join(f"{name} {value:.0f}" for name, value in peak.items()))
    print(f"PyTorch: {torch.get('torch')} on {torch.get('device')}")
    print(f"date:    {report.get('date')}\n")
    print(f"{'':<12} {'direction':<12} {'type':<22} {'ours ms':>10} {'torch ms':>10} {'speed':>7}  ours")
    theirs = {(row["name"], row["direction"], row["dtype"]): row["ms"]["median"] for row in torch.get("rows", [])}
    rows = [(*key, key[2]) for key in best]
    rows += [(*key[:2], "f32", key[2]) for key in theirs if key[2].startswith("f32 ") and (*key[:2], "f32") in best]
    rows += [(*key[:2], "f32", "f16") for key in theirs if key[2] == "f16" and (*key[:2], "f16") not in best]
    for name, direction, own_type, their_type in sorted(rows):
        if (name, direction, own_type) not in best:
            continue
        variant, ms, rest = best[name, direction, own_type]
        other = theirs.get((name, direction, their_type))
        ratio = f"{other / ms:6.2f}x" if other else "-"
        half = torch.get("half", "f16")
        kind = own_type if own_type == their_type == "f32" else f"{own_type} / {their_type.replace('f16', half)}"
        other = f"{other:.2f}" if other else "-"
        print(f"{name:<12} {direction:<12} {kind:<22} {ms:>10.2f} {other:>10} {ratio:>7}  {variant} {rest}")
    for name in ("n4-article", "n4-sitk"):
        total = load(folder / f"{name}.json").get("total")
        if total:
            shape = " x ".join(str(n) for n in reversed(total["shape"]))
            stages = ", ".join(f"{stage['name']} {stage['ms']['median']:.1f}" for stage in total["stages"])
            print(f"\n{total['name']}, {shape} voxels, host to host: {total['ms']['median']:.1f} ms ({stages})")
    print("\nspeed: PyTorch's time by ours; above 1 ours is faster. Types: ours / PyTorch's.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("measure")
    command.add_argument("--quick", action="store_true")
    command.add_argument("--out", type=pathlib.Path, required=True)
    command = commands.add_parser("table")
    command.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "measure":
        measure(options.quick, options.out)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
