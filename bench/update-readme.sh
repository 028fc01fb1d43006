#!/bin/sh
# Puts the newest table of bench/results/ between the README's bench markers, without its less asked-for rows.
#   sh bench/update-readme.sh [bench/results/FILE.md]
set -eu
cd "$(dirname "$0")/.."
table=${1:-$(ls bench/results/*.md | sort | tail -n 1)}
awk -v table="$table" '
  # of the rows: batch 64 with two threads, and every training step
  function wanted(line) { return line !~ /^\| [a-z]/ || line ~ /^\| training step/ || line ~ /\| 2 \| 64 \|/ || line ~ /^\| spectra/ }
  /<!-- bench:begin -->/ {
    print
    while ((getline line < table) > 0 && line !~ /^(Stages|Products)/) if (wanted(line)) print line
    print "Batches, threads and stages in full: [" table "](" table ")."
    skip = 1
  }
  /<!-- bench:end -->/ { skip = 0 }
  !skip && !/<!-- bench:begin -->/ { print }
' README.md > README.md.new
mv README.md.new README.md
echo "README.md shows $table"
