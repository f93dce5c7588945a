#!/usr/bin/env bash
# Everything to measure on a machine with a GPU, in one go: correctness, kernels, networks, and PyTorch beside them.
#
#   tools/gpu-bench.sh [--quick] [--out DIR] [--device NUMBER|NAME] [--no-torch]
#
#   --quick      small shapes and few samples: minutes on software Vulkan, to try the script itself
#   --out DIR    where results go (default: gpu-bench-out)
#   --device     adapter, as for trephine
#   --no-torch   leave PyTorch out
#
# Needs Rust, or a built program in the variable TREPHINE; and for the ratios python3 with PyTorch (PYTHON names
# another interpreter), on CUDA where there is one, else on two threads of the processor. Results: JSON, HTML pages,
# Chrome traces, and summary.txt with the table of ratios ours / PyTorch, all from this run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

out=gpu-bench-out quick='' torch=1 device=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --no-torch) torch='' ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    --device) device=(--device "${2:?--device needs a number or a name}"); shift ;;
    *) die "unknown option $1; see the head of this script" ;;
  esac
  shift
done

if [ -z "${TREPHINE:-}" ]; then
  need_rust
  say "Building"
  TREPHINE_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || true) cargo build --release --locked
  TREPHINE=target/release/trephine
fi
need_adapter "$TREPHINE"
mkdir -p "$out"
failed=''

# bench NAME ARGUMENT...: results to NAME.json, what it says to NAME.log; a failure does not stop the rest.
bench() {
  local name=$1
  shift
  say "$name"
  if ! "$TREPHINE" bench "$@" "${device[@]}" --json >"$out/$name.json" 2>"$out/$name.log"; then
    failed="$failed $name"
    grep '^error' "$out/$name.log" >&2 || tail -n 3 "$out/$name.log" >&2
  fi
}

"$TREPHINE" devices --json >"$out/devices.json"
half=''
if "$TREPHINE" bench cast --dtype f16 --shape 1,1,2,2,2 --check "${device[@]}" >/dev/null 2>"$out/f16.log"; then
  half=1
else
  say "Without f16: $(tail -n 1 "$out/f16.log")"
fi
if [ -n "$quick" ]; then
  budget=(--seconds 0.2 --samples 3)
  shapes=('1,32,24,32,40:32' '1,64,12,16,20:64')
  grid=(--shape '32,32,48')
  head=(--shape '48,64,64')
  bench check conv3d --check --variant all --shape 1,8,9,10,11 --out-channels 5
else
  budget=(--seconds 2 --samples 7)
  shapes=('1,32,96,128,160:32' '1,64,48,64,80:64')
  grid=(--shape '96,128,160')
  head=(--shape '192,256,256')
  bench check --check --variant all
  [ -z "$half" ] || bench check-f16 --check --variant all --dtype f16
fi

for shape in "${shapes[@]}"; do
  channels=${shape#*:}
  for direction in forward grad-input grad-weight; do
    bench "conv3d-$channels-$direction" conv3d --shape "${shape%:*}" --out-channels "$channels" \
      --direction "$direction" --variant all "${budget[@]}" --html "$out/conv3d-$channels-$direction.html"
  done
done
[ -n "$quick" ] || bench operators "${budget[@]}" --html "$out/operators.html" --csv "$out/operators.csv"
# Half precision is for inference: forward alone.
if [ -n "$half" ]; then
  for shape in "${shapes[@]}"; do
    channels=${shape#*:}
    bench "conv3d-$channels-forward-f16" conv3d --shape "${shape%:*}" --out-channels "$channels" --dtype f16 \
      --variant all "${budget[@]}" --html "$out/conv3d-$channels-forward-f16.html"
  done
  bench article-forward-f16 network --model article --dtype f16 "${grid[@]}" "${budget[@]}" \
    --profile --trace "$out/article-forward-f16.trace.json" --html "$out/article-forward-f16.html"
fi
for direction in forward train; do
  bench "article-$direction" network --model article --direction "$direction" "${grid[@]}" "${budget[@]}" \
    --profile --trace "$out/article-$direction.trace.json" --html "$out/article-$direction.html"
done
# Transfers included: with the article's setting, and at full resolution.
bench n4-article n4 --profile --preset article "${head[@]}" "${budget[@]}"
bench n4-sitk n4 --profile --preset sitk "${head[@]}" "${budget[@]}"
if [ -z "$quick" ]; then
  bench default-forward network --model default "${budget[@]}" --profile --html "$out/default-forward.html"
  [ -z "$half" ] ||
    bench default-forward-f16 network --model default --dtype f16 "${budget[@]}" --profile \
      --html "$out/default-forward-f16.html"
  bench resample resample "${budget[@]}"
fi

python=${PYTHON:-python3}
if [ -n "$torch" ] && have "$python" && "$python" -c 'import torch' 2>/dev/null; then
  say "PyTorch"
  "$python" tools/bench_torch.py measure ${quick:+--quick} --out "$out/torch.json" 2>"$out/torch.log" ||
    { failed="$failed torch"; tail -n 3 "$out/torch.log" >&2; }
else
  say "Without PyTorch there are no ratios; install it for $python, or name an interpreter that has it in PYTHON"
fi
if have "$python"; then
  "$python" tools/bench_torch.py table "$out" | tee "$out/summary.txt"
fi
[ -z "$failed" ] || die "failed:$failed; the logs are in $out"
say "Results are in $out"
