#!/usr/bin/env python3
"""Average the weights of two models of one network: what a fine-tuned model gained, without all of what it lost.

    tools/average_weights.py FIRST.safetensors SECOND.safetensors OUT.safetensors

Description and card are SECOND's; the result is f32. After Wortsman et al., Model soups, ICML 2022. Needs numpy and
safetensors.
"""

import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def read(path):
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}, file.metadata()


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    (first, _), (second, metadata) = read(sys.argv[1]), read(sys.argv[2])
    shapes = [{name: tensor.shape for name, tensor in model.items()} for model in (first, second)]
    if shapes[0] != shapes[1]:
        sys.exit(f"{sys.argv[1]}, {sys.argv[2]}: not the same network; average models that share a description")
    save_file({name: (first[name] + second[name]) / 2 for name in second}, sys.argv[3], metadata=metadata)


if __name__ == "__main__":
    main()
