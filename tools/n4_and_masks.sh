#!/usr/bin/env bash
# Does bias correction before the network help the mask? Runs `trephine evaluate` without N4, with the article's
# setting and with two passes, and prints the Dice of each by contrast, and head by head how far N4 moves it.
#
#   tools/n4_and_masks.sh PAIRS.tsv [OUT] [ARGUMENT...]
#
# OUT (default: n4-and-masks) gets a table for each mode and is used again where it has one, so that a broken run goes
# on. Further arguments go to `trephine evaluate` (--model M, --device D). TREPHINE names the program.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/common.sh
. "$root/tools/common.sh"

[ $# -ge 1 ] || die "name a table of pairs: tools/n4_and_masks.sh PAIRS.tsv [OUT] [ARGUMENT...]"
pairs=$1
out=${2:-n4-and-masks}
shift $(($# > 1 ? 2 : 1))
program=${TREPHINE:-$root/target/release/trephine}
[ -x "$program" ] || die "$program is missing; build it with cargo build --release, or name it in TREPHINE"
mkdir -p "$out"
for mode in none article two-pass; do
  [ -s "$out/$mode.csv" ] && continue
  case $mode in none) option=--no-n4 ;; *) option=--n4=$mode ;; esac
  say "N4: $mode"
  # Heads that fail are rows with an error; the others count.
  "$program" evaluate --data "$pairs" --csv "$out/$mode.part" "$option" --quiet "$@" >/dev/null || [ -s "$out/$mode.part" ]
  mv "$out/$mode.part" "$out/$mode.csv"
done

python3 - "$out" <<'PYTHON'
import csv, statistics, sys

modes = ("none", "article", "two-pass")
tables = {
    mode: {row["image"]: row for row in csv.DictReader(open(f"{sys.argv[1]}/{mode}.csv"))}
    for mode in modes
}
heads = [image for image in tables["none"] if all(tables[m][image]["dice"] for m in modes)]
dice = {mode: {image: float(tables[mode][image]["dice"]) for image in heads} for mode in modes}
contrast = {image: tables["none"][image].get("contrast") or "" for image in heads}
print(f"{'Dice':24}" + "".join(f"{mode + ': median, worst':>28}" for mode in modes) + "   better / worse by 0.002 than none")
for group in ["all", *dict.fromkeys(contrast.values())]:
    of = [image for image in heads if group in ("all", contrast[image])]
    line = f"{f'{len(of)} {group}':24}"
    for mode in modes:
        values = [dice[mode][image] for image in of]
        line += f"{statistics.median(values):20.4f}, {min(values):.4f}"
    for mode in modes[1:]:
        moved = [dice[mode][image] - dice["none"][image] for image in of]
        line += f"   {mode} {sum(d > 0.002 for d in moved)} / {sum(d < -0.002 for d in moved)}"
    print(line)
PYTHON
