#!/usr/bin/env bash
# Installs what the tests need and runs them all: formatting, lints, documentation, tests.
#
#   tools/test.sh [ARGUMENT...]   arguments go to `cargo test`
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
if have shellcheck; then shellcheck -x tools/*.sh .ci/run; fi
say "Documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
say "Building the tests"
cargo test --locked --no-run
need_adapter cargo run --locked --quiet --
say "Tests"
REQUIRE_GPU=1 cargo test --locked "$@"
say "All passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
