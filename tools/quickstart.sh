#!/usr/bin/env bash
# From a fresh checkout to a brain: installs what is missing, builds Trephine and strips one head.
#
#   tools/quickstart.sh [HEAD.nii.gz] [OUTDIR]
#
# HEAD    a head scan; without one, Colin27 from Debian's package mricron-data
# OUTDIR  where the results go (default: trephine-out)
#
# Needs Rust (https://rustup.rs). On Debian and Ubuntu a software Vulkan driver is installed where no adapter is
# found; elsewhere the script says what to install.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/common.sh
. "$repository/tools/common.sh"

case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac
[ $# -le 2 ] || die "usage: tools/quickstart.sh [HEAD.nii.gz] [OUTDIR]"
head=${1:-}
out=${2:-trephine-out}
[ -z "$head" ] || [ -r "$head" ] || die "$head: cannot be read; give the path of a NIfTI file"

need_rust
if [ -z "$head" ]; then
  fetch_colin27 ||
    die "no head given, and the sample, from Debian's package mricron-data, cannot be fetched; run: tools/quickstart.sh HEAD.nii.gz"
  head=$COLIN27
fi
say "Building (a few minutes the first time)"
cargo build --release --locked --manifest-path "$repository/Cargo.toml"
target=${CARGO_TARGET_DIR:-$repository/target}
trephine=$target/release/trephine
need_adapter "$trephine"

mkdir -p "$out"
name=$(basename "$head")
name=${name%.gz}
name=${name%.nii}
say "Stripping $head"
SECONDS=0
"$trephine" strip -i "$head" -o "$out/${name}_brain.nii.gz" -m "$out/${name}_mask.nii.gz" -q "$out/${name}_qc.png"
say "Done in $SECONDS s"
printf 'brain    %s\nmask     %s\npicture  %s\nprogram  %s\n' \
  "$out/${name}_brain.nii.gz" "$out/${name}_mask.nii.gz" "$out/${name}_qc.png" "$trephine"
