#!/bin/sh
# Puts the newest table of bench/results/ between the README's bench markers.
#   sh bench/update-readme.sh [bench/results/FILE.md]
set -eu
cd "$(dirname "$0")/.."
table=${1:-$(ls bench/results/*.md | sort | tail -n 1)}
awk -v table="$table" '
  /<!-- bench:begin -->/ { print; while ((getline line < table) > 0) print line; skip = 1 }
  /<!-- bench:end -->/ { skip = 0 }
  !skip && !/<!-- bench:begin -->/ { print }
' README.md > README.md.new
mv README.md.new README.md
echo "README.md shows $table"
