#!/bin/sh
# Training beside a process that keeps a core busy: 1 and 2 threads in alternation, alone and in company, on two cores. Medians of the rounds.
#
#   sh bench/company.sh [ROUNDS]           after bench/run.py has built build/bench/bench
set -eu
cd "$(dirname "$0")/.."
program=build/bench/bench rounds=${1:-7}
[ -x "$program" ] || { echo "bench/company.sh: run bench/run.py first" >&2; exit 1; }

# seconds THREADS NETWORK STEPS: of the second of two runs
seconds() { printf '2\n%s\nend\n' "$3" | taskset -c 0,1 "$program" train "$1" 64 $2 | sed -n 2p; }

# row NAME NETWORK STEPS
row() {
  one='' two=''
  for _ in $(seq "$rounds"); do
    one="$one $(seconds 1 "$2" "$3")"
    two="$two $(seconds 2 "$2" "$3")"
  done
  median() { printf '%s\n' "$@" | sort -n | sed -n $(((rounds + 1) / 2))p; }
  # shellcheck disable=SC2086
  echo "| $1 | $(median $one) | $(median $two) |"
}

echo '| seconds | 1 thread | 2 threads |'
echo '|---|---|---|'
for company in alone 'beside a busy process'; do
  if [ "$company" != alone ]; then
    taskset -c 0,1 sh -c 'while :; do :; done' &
    busy=$!
    trap 'kill $busy' EXIT
  fi
  row "8 steps of the full network, $company" '' 8
  row "40 steps of the small network, $company" small 40
done
