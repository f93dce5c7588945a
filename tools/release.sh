#!/usr/bin/env bash
# Makes everything that is handed out, into dist/, and runs each once.
#
#   tools/release.sh
#
# The program (profile `dist`), an archive, a Debian package, a Python wheel, `cargo install`, a Docker and an Apptainer
# image. What cannot be made for want of a tool is named, and the rest is made all the same.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

# The program with its weights may not grow past this.
MOST_BYTES=24000000

skipped=()
skip() {
  say "SKIPPED: $*"
  skipped+=("$1")
}

need_rust
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$PWD/target}
dist=$PWD/dist
rm -rf "$dist"
mkdir -p "$dist"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "The program"
cargo build --profile dist --locked --bin trephine
program=$target/dist/trephine
bytes=$(wc -c <"$program")
say "$program: $bytes bytes"
[ "$bytes" -le "$MOST_BYTES" ] || die "$program: $bytes bytes, more than $MOST_BYTES; find out what has grown"
need_adapter "$program"

# runs PROGRAM: it knows its version, and strips the sample head where that can be had.
head=
if fetch_colin27; then head=$COLIN27; else say "The sample head cannot be fetched: programs only tell their version"; fi
runs() {
  [ "$("$1" --version)" = "trephine $version" ] || die "$1 does not say that it is trephine $version"
  if [ -n "$head" ]; then
    "$1" --quiet strip -i "$head" -m "$work/mask.nii.gz"
    [ -s "$work/mask.nii.gz" ] || die "$1 wrote no mask"
    rm "$work/mask.nii.gz"
  fi
}
runs "$program"

say "Manual pages and completions"
"$program" --quiet man "$work/man"
for shell in bash zsh fish; do
  "$program" completions "$shell" >"$work/completions.$shell"
done

say "Archive"
folder=trephine-$version-$host
mkdir -p "$work/$folder/completions"
cp "$program" tools/mri_synthstrip README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$work/$folder/"
cp weights/README.md "$work/$folder/WEIGHTS.md"
cp -r "$work/man" "$work/$folder/man"
cp "$work/completions.bash" "$work/$folder/completions/trephine.bash"
cp "$work/completions.zsh" "$work/$folder/completions/_trephine"
cp "$work/completions.fish" "$work/$folder/completions/trephine.fish"
tar -C "$work" -czf "$dist/$folder.tar.gz" "$folder"
mkdir "$work/archive"
tar -C "$work/archive" -xzf "$dist/$folder.tar.gz"
runs "$work/archive/$folder/trephine"

say "Debian package"
if have dpkg-deb && have objdump; then
  root=$work/deb
  share=$root/usr/share
  install -D -m 755 "$program" "$root/usr/bin/trephine"
  install -D -m 755 tools/mri_synthstrip "$share/trephine/mri_synthstrip"
  for page in "$work"/man/*.1; do
    install -D -m 644 "$page" "$share/man/man1/$(basename "$page")"
  done
  gzip -9n "$share"/man/man1/*.1
  install -D -m 644 "$work/completions.bash" "$share/bash-completion/completions/trephine"
  install -D -m 644 "$work/completions.zsh" "$share/zsh/vendor-completions/_trephine"
  install -D -m 644 "$work/completions.fish" "$share/fish/vendor_completions.d/trephine.fish"
  documents=$share/doc/trephine
  install -D -m 644 README.md "$documents/README.md"
  gzip -9nc CHANGELOG.md >"$documents/changelog.gz"
  {
    printf 'The code is licensed under MIT or Apache-2.0, at your option; the weights under CC BY-SA 3.0.\n\n'
    cat LICENSE-MIT
    printf '\nApache-2.0: /usr/share/common-licenses/Apache-2.0\n\n'
    cat weights/README.md
  } >"$documents/copyright"
  # The newest symbols of the C library that the program asks for.
  libc=$(objdump -T "$program" | sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -n 1)
  mkdir "$root/DEBIAN"
  cat >"$root/DEBIAN/control" <<CONTROL
Package: trephine
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: The Trephine authors <authors@trephine.invalid>
Installed-Size: $(du -sk "$root/usr" | cut -f 1)
Depends: libc6 (>= $libc), libgcc-s1
Recommends: libvulkan1, mesa-vulkan-drivers | vulkan-icd
Section: science
Priority: optional
Description: brain extraction of 3D MRI on any GPU
 Takes the brain out of a head scan: a 3D MRI goes in; the brain, its mask and
 a picture to check come out. It runs on any GPU with Vulkan, and on none by
 Mesa's software driver. The weights are inside.
CONTROL
  dpkg-deb --root-owner-group -Zxz --build "$root" "$dist/trephine.deb" >&2
  dpkg-deb -x "$dist/trephine.deb" "$work/unpacked"
  runs "$work/unpacked/usr/bin/trephine"
  if have man; then
    MANPATH=$work/unpacked/usr/share/man man trephine-strip >/dev/null || die "the manual page cannot be shown"
  fi
  if have lintian; then lintian --fail-on error "$dist/trephine.deb" >&2; fi
else
  skip "Debian package" "needs dpkg-deb and objdump (Debian: dpkg, binutils)"
fi

say "Python wheel"
python=${TREPHINE_PYTHON:-python3}
maturin=${TREPHINE_MATURIN:-maturin}
if have "$maturin" && "$python" -m venv "$work/venv" 2>/dev/null; then
  "$maturin" build --target-dir "$target" --out "$dist" >&2
  "$work/venv/bin/python" -m pip --quiet install "$dist"/trephine-*.whl
  runs "$work/venv/bin/trephine"
  # Whichever other program is on the path, the package finds its own.
  found=$("$work/venv/bin/python" -c 'import trephine; print(trephine.program())')
  [ "$found" = "$work/venv/bin/trephine" ] || die "the Python package finds $found"
  if [ -n "$head" ]; then
    "$work/venv/bin/python" -c 'import sys, trephine
result = trephine.strip(sys.argv[1])
assert result.brain.shape == result.mask.shape and result.brain_ml > 1000, result' "$head"
  fi
else
  skip "Python wheel" "needs maturin (PyPI: maturin; TREPHINE_MATURIN names it) and a Python with venv"
fi

say "cargo install"
cargo install --quiet --path . --locked --profile dist --target-dir "$target" --root "$work/cargo"
runs "$work/cargo/bin/trephine"

say "Docker image"
if have docker && docker info >/dev/null 2>&1; then
  docker build -f packaging/Dockerfile -t "trephine:$version" .
  docker run --rm "trephine:$version" devices
else
  skip "Docker image" "needs docker and its daemon"
fi

say "Apptainer image"
if have apptainer && [ -e "$dist/trephine.deb" ]; then
  apptainer build "$dist/trephine-$version.sif" packaging/trephine.def
  apptainer run "$dist/trephine-$version.sif" devices
else
  skip "Apptainer image" "needs apptainer and the Debian package"
fi

say "Made:"
ls -l "$dist" >&2
[ ${#skipped[@]} -eq 0 ] || say "Not made: $(printf '%s; ' "${skipped[@]}")"
