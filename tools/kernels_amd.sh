#!/usr/bin/env bash
# kernels_amd.sh: what AMD's compiler makes of every kernel, as docs/kernels-amd.md; no GPU needed.
#
#   tools/kernels_amd.sh > docs/kernels-amd.md
#
# TREPHINE  the program (default: target/release/trephine)
# Needs Mesa 22.3's driver for AMD: on Debian 12, apt-get install mesa-vulkan-drivers libvulkan1
set -euo pipefail
trephine=${TREPHINE:-$(dirname "$0")/../target/release/trephine}

cat <<'END'
# What AMD's compiler makes of every kernel

Written by `tools/kernels_amd.sh`; [kernels.md](kernels.md) says what the columns mean. Nothing here was run on a GPU.

## RDNA2 (navi21), all variants

END
"$trephine" bench --variant all --compile-for amd:navi21
cat <<'END'

## RDNA3 (gfx1100), the variants that a GPU prefers

END
"$trephine" bench --compile-for amd:gfx1100
