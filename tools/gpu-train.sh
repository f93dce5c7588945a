#!/usr/bin/env bash
# A training run, or a part of one, on a machine with a GPU that is there for minutes: what it needs in one file, and one
# command that ends in time.
#
#   tools/gpu-train.sh pack --data TSV [--validation TSV] [--labels TSV] [--mib N] [--program FILE] [--library FILE] PACK
#   tools/gpu-train.sh run PACK --config TOML --out DIR [--init FILE|NAME] [--resume CHECKPOINT] [--minutes N] [--device D]
#
# pack: puts label maps, validation heads and as many training heads as then fit into PACK (default: 40 MiB), every n-th
# of the table. --program adds trephine itself and --library a shared library that the other machine may lack, such as
# the Vulkan loader (libvulkan.so.1); both count.
#
# run: trains with the settings of TOML for at most N minutes (default: 9), all included, and leaves in DIR what goes on:
# weights in half precision (best, last), log.csv, training.svg, the checkpoint, and what the program said (train.log).
# Another call goes on with --resume DIR/checkpoint.safetensors, with the same PACK and TOML; compact_checkpoint = true in TOML
# keeps it small. Epochs should take a minute at most: a run stops between two of them. The program is that of PACK, or
# the one named in the variable TREPHINE. A graphics driver must be there; VK_DRIVER_FILES names one that is not found.
#
# Needs tar, and xz or python3. pack also needs awk and gzip.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/common.sh
. "$here/common.sh"
begun=$SECONDS

# What comes back, in MiB.
RESULT_MIB=16
# Seconds kept for the end of a run: weights in half precision, copies.
CLOSING=20

mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }
bytes_of() { cat "$@" | wc -c | tr -d ' '; }

# xz_pipe OPTION...: xz, or what Python has of it.
xz_pipe() {
  if have xz; then
    xz "$@"
  else
    have python3 || die "needs xz or python3 to unpack; install one of them"
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer)'
  fi
}

# column TABLE NAME: the values of a column, one a line, empty ones as "-".
column() {
  awk -F'\t' -v name="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i; next }
    NF { print (at && $at != "" ? $at : "-") }' "$1"
}

# beside TABLE NAME: a file as the table names it.
beside() {
  case $2 in
    /*) printf '%s' "$2" ;;
    *) printf '%s/%s' "$(dirname "$1")" "$2" ;;
  esac
}

# pairs TABLE: image and mask of the rows that have both, as paths.
pairs() {
  paste <(column "$1" image) <(column "$1" mask) | while IFS=$'\t' read -r image mask; do
    [ "$image" = - ] || [ "$mask" = - ] || printf '%s\t%s\n' "$(beside "$1" "$image")" "$(beside "$1" "$mask")"
  done
}

# put_heads NAME LIST: copies the pairs of a list into the folder heads, and lists them in NAME.tsv.
put_heads() {
  local name=$1 ix=0 image mask
  printf 'image\tmask\n' >"$scratch/pack/$name.tsv"
  while IFS=$'\t' read -r image mask; do
    ix=$((ix + 1))
    local to=heads/$name$ix
    cp "$image" "$scratch/pack/${to}_$(basename "$image")"
    cp "$mask" "$scratch/pack/${to}_$(basename "$mask")"
    printf '%s\t%s\n' "${to}_$(basename "$image")" "${to}_$(basename "$mask")" >>"$scratch/pack/$name.tsv"
  done <"$2"
}

# put_maps TABLE: label maps, unpacked since xz packs them far better than gzip, with the files that describe their labels.
put_maps() {
  local ix=0 image family name
  printf 'image\tfamily\n' >"$scratch/pack/maps.tsv"
  while IFS=$'\t' read -r image family; do
    ix=$((ix + 1))
    image=$(beside "$1" "$image")
    name=maps/$ix/$(basename "$image")
    mkdir "$scratch/pack/maps/$ix"
    case $image in
      *.gz) name=${name%.gz} && gzip -dc "$image" >"$scratch/pack/$name" ;;
      *) cp "$image" "$scratch/pack/$name" ;;
    esac
    if [ "$family" = - ]; then
      family=''
      [ ! -f "$(dirname "$image")/labels.toml" ] || cp "$(dirname "$image")/labels.toml" "$scratch/pack/maps/$ix/"
    elif [ -f "$(beside "$1" "$family")" ]; then
      cp "$(beside "$1" "$family")" "$scratch/pack/maps/$ix/family.toml"
      family=maps/$ix/family.toml
    fi
    printf '%s\t%s\n' "$name" "$family" >>"$scratch/pack/maps.tsv"
  done < <(paste <(column "$1" image) <(column "$1" family))
}

pack() {
  local data='' validation='' labels='' limit=40 program='' library='' out=''
  while [ $# -gt 0 ]; do
    case $1 in
      --data) data=${2:?--data needs a table}; shift ;;
      --validation) validation=${2:?--validation needs a table}; shift ;;
      --labels) labels=${2:?--labels needs a table}; shift ;;
      --mib) limit=${2:?--mib needs a number}; shift ;;
      --program) program=${2:?--program needs a file}; shift ;;
      --library) library=${2:?--library needs a file}; shift ;;
      -*) die "unknown option $1; see the head of this script" ;;
      *) [ -z "$out" ] || die "names two packs, $out and $1"; out=$1 ;;
    esac
    shift
  done
  [ -n "$data" ] && [ -n "$out" ] || die "pack needs --data TSV and a file to write; see the head of this script"
  have xz || die "pack needs xz; install it"
  mkdir -p "$scratch/pack/heads" "$scratch/pack/maps" "$scratch/pack/bin" "$scratch/pack/lib"
  [ -z "$program" ] || cp "$program" "$scratch/pack/bin/trephine"
  # The name that programs look for, whatever it links to.
  [ -z "$library" ] || cp -L "$library" "$scratch/pack/lib/"
  [ -z "$labels" ] || put_maps "$labels"
  say "Packing"
  local first=(maps bin lib)
  [ -z "$labels" ] || first+=(maps.tsv)
  tar -C "$scratch/pack" -cf - "${first[@]}" | xz -T0 -6 >"$scratch/first.tar.xz"
  [ -z "$validation" ] || { pairs "$validation" >"$scratch/validation" && put_heads validation "$scratch/validation"; }
  local used
  used=$(($(bytes_of "$scratch/first.tar.xz") + $(find "$scratch/pack/heads" -type f -exec cat {} + | wc -c)))
  local training=$scratch/training rows room
  pairs "$data" >"$training"
  rows=$(wc -l <"$training")
  # A tenth of a MiB for tables and headers.
  room=$((limit * 1048576 - used - 104858))
  # shellcheck disable=SC2094 # both ends only read the table
  tr '\t' '\n' <"$training" | while read -r file; do wc -c <"$file"; done | paste - - |
    paste "$training" - | awk -F'\t' -v room="$room" '
      { pair[NR] = $1 "\t" $2; size[NR] = $3 + $4; all += $3 + $4 }
      END {
        share = all > 0 ? room / all : 0
        for (row = 1; row <= NR; row++)
          if (share >= 1 || int(row * share) > int((row - 1) * share))
            if ((taken += size[row]) <= room) print pair[row]
      }' >"$scratch/chosen"
  local chosen
  chosen=$(wc -l <"$scratch/chosen")
  [ "$chosen" -gt 0 ] || die "all else takes $(mib "$used"), so that no training head fits into $limit MiB"
  put_heads train "$scratch/chosen"
  mv "$scratch/first.tar.xz" "$scratch/pack/"
  rm -rf "$scratch/pack/maps" "$scratch/pack/bin" "$scratch/pack/lib" "$scratch/pack/maps.tsv"
  tar -C "$scratch/pack" -cf "$out" .
  say "$out: $(mib "$(bytes_of "$out")"), $chosen of $rows training heads$([ -z "$labels" ] || echo ", \
$(($(wc -l < <(column "$labels" image)))) label maps")"
}

run() {
  local pack='' config='' out='' init='' resume='' minutes=9 device=()
  while [ $# -gt 0 ]; do
    case $1 in
      --config) config=${2:?--config needs a file}; shift ;;
      --out) out=${2:?--out needs a folder}; shift ;;
      --init) init=${2:?--init needs a model}; shift ;;
      --resume) resume=${2:?--resume needs a checkpoint}; shift ;;
      --minutes) minutes=${2:?--minutes needs a number}; shift ;;
      --device) device=(--device "${2:?--device needs a number or a name}"); shift ;;
      -*) die "unknown option $1; see the head of this script" ;;
      *) [ -z "$pack" ] || die "names two packs, $pack and $1"; pack=$1 ;;
    esac
    shift
  done
  [ -n "$pack" ] && [ -n "$config" ] && [ -n "$out" ] ||
    die "run needs a pack, --config TOML and --out DIR; see the head of this script"
  tar -C "$scratch" -xf "$pack"
  xz_pipe -dc <"$scratch/first.tar.xz" | tar -C "$scratch" -xf -
  local trephine=${TREPHINE:-$scratch/bin/trephine}
  trephine=$(command -v "$trephine" || true)
  [ -n "$trephine" ] || die "the pack holds no program; name one in the variable TREPHINE, or pack one with --program"
  export LD_LIBRARY_PATH="$scratch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  sees_adapter "$trephine" || die "no GPU found; install its Vulkan driver, pack the Vulkan loader with --library, or name the \
driver's file in VK_DRIVER_FILES"
  mkdir -p "$out"
  # Cards and checkpoints tell names of files: those within the pack, which are the same everywhere.
  trephine=$(realpath "$trephine") out=$(realpath "$out")
  local run=$scratch/run options=(--data train.tsv --out run "${device[@]}")
  [ ! -f "$scratch/validation.tsv" ] || options+=(--validation validation.tsv)
  [ ! -f "$scratch/maps.tsv" ] || options+=(--labels maps.tsv)
  if [ -n "$resume" ]; then
    mkdir "$run"
    cp "$resume" "$run/checkpoint.safetensors"
    options+=(--resume)
  else
    cp "$config" "$scratch/config.toml"
    options+=(--config config.toml)
    if [ -f "$init" ]; then
      cp "$init" "$scratch/init.safetensors"
      init=init.safetensors
    fi
    [ -z "$init" ] || options+=(--init "$init")
  fi
  cd "$scratch"
  local left
  left=$(awk -v all="$minutes" -v gone="$((SECONDS - begun + CLOSING))" 'BEGIN { print 60 * all - gone }')
  awk -v left="$left" 'BEGIN { exit !(left > 0) }' || die "$minutes minutes leave no time to train; give --minutes more"
  say "Training for $left s at most"
  local rc=0
  # Epochs that take longer than they did are ended; the checkpoint before them counts then.
  timeout --signal=INT --kill-after=5 "$left" "$trephine" train "${options[@]}" \
    --stop-after "$(awk -v left="$left" 'BEGIN { print left / 60 }')" 2>&1 | tee "$out/train.log" >&2 || rc=$?
  [ -f "$run/log.csv" ] || die "no epoch ended (see $out/train.log); give epochs fewer steps, or more --minutes"
  [ "$rc" -eq 0 ] || say "Training ended with code $rc; what follows is the last epoch that was whole"
  for weights in best last; do
    [ ! -f "$run/$weights.safetensors" ] ||
      "$trephine" model convert "$run/$weights.safetensors" "$out/$weights.safetensors" --half >/dev/null
  done
  cp "$run/log.csv" "$run/training.svg" "$run/checkpoint.safetensors" "$out/"
  local size
  size=$(cd "$out" && bytes_of best.safetensors last.safetensors checkpoint.safetensors log.csv training.svg train.log)
  if [ "$size" -gt $((RESULT_MIB * 1048576)) ]; then
    say "warning: the results take $(mib "$size"), more than $RESULT_MIB MiB; set compact_checkpoint = true"
  fi
  say "$out: $(mib "$size") after $((SECONDS - begun)) s"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case ${1:-} in
  pack | run) "$@" ;;
  *) die "the first word is pack or run; see the head of this script" ;;
esac
