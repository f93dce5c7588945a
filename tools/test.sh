#!/usr/bin/env bash
# Installs what the tests need and runs them all: formatting, lints, documentation, tests.
#
#   tools/test.sh [ARGUMENT...]   arguments go to `cargo test`; without any, the ten slowest tests are named
#
# Needs Rust (https://rustup.rs). On Debian and Ubuntu a software Vulkan driver is installed where no adapter is
# found; elsewhere the script says what to install. TREPHINE_DEVICE picks an adapter by number or name.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

need_rust
for component in rustfmt clippy; do
  name=${component#rust}
  if ! cargo "$name" --version >/dev/null 2>&1; then
    have rustup || die "cargo $name is missing; install the $component component of your Rust toolchain"
    rustup component add "$component"
  fi
done

SECONDS=0
say "Formatting"
cargo fmt --check
say "Lints"
cargo clippy --locked --all-targets -- -D warnings
cargo clippy --locked --no-default-features --lib -- -D warnings
cargo clippy --locked --no-default-features --features cli -- -D warnings
if have shellcheck; then shellcheck -x tools/*.sh .ci/run; fi
say "Documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
say "Building the tests"
cargo test --locked --no-run
need_adapter cargo run --locked --quiet --
if fetch_colin27; then
  export TREPHINE_COLIN27=$COLIN27
else
  say "Colin27 cannot be fetched: the accuracy of the built-in model is not tested"
fi
# Some tests ask other programs, and pass over what is not at hand.
have chromium || have chromium-browser || have google-chrome || [ -n "${TREPHINE_CHROMIUM:-}" ] ||
  say "No Chromium is found (Debian: chromium): the page of a batch is made, but not looked at"
have "${TREPHINE_BIDS_VALIDATOR:-bids-validator-deno}" ||
  say "No BIDS validator is found (PyPI: bids-validator-deno): derivatives are not asked to be valid"
"${TREPHINE_PYTHON:-python3}" -c 'import nibabel, nipype' 2>/dev/null ||
  say "Python lacks nibabel or nipype (TREPHINE_PYTHON names another one): the Python package is not tested, or in part"
have "${TREPHINE_DCM2NIIX:-dcm2niix}" ||
  say "No dcm2niix is found (PyPI: dcm2niix): series of DICOM are read, but not compared with it"
if fetch_tint; then
  export TREPHINE_TINT=$TINT
else
  say "Node or npm's package webgpu is not at hand: no shader is put through Tint"
fi
have script || say "No script is found (Debian: bsdutils): progress on a terminal is not tested"

say "Tests"
export REQUIRE_GPU=1
if [ $# -gt 0 ]; then
  cargo test --locked "$@"
else
  # The harness tells times only where this variable is set as it runs. Set for cargo, it would build everything anew.
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  runner=CARGO_TARGET_${host}_RUNNER
  export "$runner=env RUSTC_BOOTSTRAP=1${!runner:+ ${!runner}}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  cargo test --locked --lib --bins --tests --examples -- -Z unstable-options --report-time | tee "$log"
  # Rustdoc runs the documentation's examples itself, and tells no times.
  cargo test --locked --doc
  say "The ten slowest tests"
  sed -n 's/^test \(.*\) \.\.\. ok <\([0-9.]*\)s>$/\2 s  \1/p' "$log" | sort -rn | awk 'NR <= 10'
fi
say "All passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
