# shellcheck shell=bash
# What quickstart.sh and test.sh share: to be sourced, not run.

# Ends the script with a message that says what to do.
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

say() {
  printf '==> %s\n' "$*" >&2
}

have() {
  command -v "$1" >/dev/null 2>&1
}

# as_root COMMAND...: as it is for root, through sudo for others.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    have sudo || die "needs root and finds no sudo; run this as root: $*"
    sudo "$@"
  fi
}

apt_update() {
  as_root apt-get -qq update >&2 || say "The package lists could not be refreshed; trying those at hand"
}

# apt_install PACKAGE...
apt_install() {
  say "Installing $*"
  apt_update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >&2 ||
    die "apt-get could not install $*"
}

# The Rust toolchain, and the linker that it calls.
need_rust() {
  have cargo || [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] ||
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  have cargo || die "Rust is missing; install it from https://rustup.rs (one command, no root), then run this again"
  if ! have cc; then
    have apt-get || die "a C compiler is missing, which Rust links with; install gcc or clang"
    apt_install gcc libc6-dev
  fi
}

# Whether the program (a command that runs trephine) sees an adapter.
sees_adapter() {
  "$@" devices --json 2>/dev/null | grep -q '"name"'
}

# need_adapter TREPHINE...: installs software Vulkan where the program sees no adapter.
need_adapter() {
  # Mesa complains on every start without it.
  if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR=${TMPDIR:-/tmp}
    export XDG_RUNTIME_DIR
  fi
  sees_adapter "$@" && return
  case $(uname -s) in
    Linux) ;;
    *) die "no GPU found; Trephine uses Metal on macOS and Direct3D 12 on Windows, which come with the system" ;;
  esac
  have apt-get || die "no GPU found; install your GPU's Vulkan driver and the Vulkan loader, or the software driver of \
Mesa (Fedora: dnf install mesa-vulkan-drivers vulkan-loader; Arch: pacman -S vulkan-swrast vulkan-icd-loader)"
  apt_install mesa-vulkan-drivers libvulkan1
  sees_adapter "$@" || die "still no adapter after installing Mesa's software Vulkan; '$* devices' says more"
}

# fetch_colin27: puts the path of the sample head (Colin27, 16 MB to fetch) into COLIN27. It lies in a Debian package, which
# is downloaded and unpacked, not installed, so that no root is needed, and kept in the user's cache folder.
fetch_colin27() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/trephine
  COLIN27=$cache/colin27.nii.gz
  [ ! -s "$COLIN27" ] || return 0
  have apt-get && have dpkg-deb || return 1
  say "Fetching the sample head (Colin27, 16 MB)"
  mkdir -p "$cache"
  (
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # A fresh machine has no package lists yet; refreshing them takes root.
    download_colin27 "$work" || { apt_update && download_colin27 "$work"; } || exit 1
    dpkg-deb -x "$work"/mricron-data_*.deb "$work/files"
    mv "$work/files/usr/share/mricron/templates/ch2.nii.gz" "$COLIN27"
  )
}

# download_colin27 FOLDER
download_colin27() {
  local options=()
  # apt's own user cannot write to root's folders.
  if [ "$(id -u)" -eq 0 ]; then options=(-o APT::Sandbox::User=root); fi
  (cd "$1" && apt-get -qq "${options[@]}" download mricron-data >&2)
}

# fetch_tint: puts the folder of Dawn's bindings for Node, which hold the compiler Tint (132 MB), into TINT.
fetch_tint() {
  TINT=${XDG_CACHE_HOME:-$HOME/.cache}/trephine/tint-0.6.2
  [ ! -d "$TINT/node_modules/webgpu" ] || return 0
  have node && have npm || return 1
  say "Fetching Dawn's bindings for Node"
  mkdir -p "$TINT"
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$TINT" webgpu@0.6.2 >&2
}
