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

# Colin27 lies in a Debian package: downloaded and unpacked, not installed, so that no root is needed.
fetch_colin27() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/trephine
  head=$cache/colin27.nii.gz
  [ ! -s "$head" ] || return 0
  if ! have apt-get || ! have dpkg-deb; then
    die "no head given, and the sample comes from a Debian package; run: tools/quickstart.sh HEAD.nii.gz"
  fi
  say "Fetching the sample head (Colin27, 16 MB)"
  mkdir -p "$cache"
  local work
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  # shellcheck disable=SC2064  # the folder's name is known now, and gone from the scope later
  trap "rm -rf '$work'" EXIT
  download_sample "$work" || {
    # A fresh machine has no package lists yet; refreshing them takes root.
    apt_update
    download_sample "$work"
  } || die "the package mricron-data cannot be downloaded; run: tools/quickstart.sh HEAD.nii.gz"
  dpkg-deb -x "$work"/mricron-data_*.deb "$work/files"
  mv "$work/files/usr/share/mricron/templates/ch2.nii.gz" "$head"
}

# download_sample FOLDER
download_sample() {
  local options=()
  # apt's own user cannot write to root's folders.
  if [ "$(id -u)" -eq 0 ]; then options=(-o APT::Sandbox::User=root); fi
  (cd "$1" && apt-get -qq "${options[@]}" download mricron-data >&2)
}

need_rust
[ -n "$head" ] || fetch_colin27
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
