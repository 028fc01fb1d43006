#!/bin/sh
# Training beside a process that keeps a core busy: medians of five runs of 1 and 2 threads, alone and in company, on two cores.
#
#   sh bench/company.sh            after bench/run.py has built build/bench/bench
set -eu
cd "$(dirname "$0")/.."
program=build/bench/bench
[ -x "$program" ] || { echo "bench/company.sh: run bench/run.py first" >&2; exit 1; }

# median THREADS NETWORK STEPS
median() {
  printf '2\n%s\n%s\n%s\n%s\n%s\nend\n' "$3" "$3" "$3" "$3" "$3" | taskset -c 0,1 "$program" train "$1" 64 $2 | sed -n 2,6p | sort -n | sed -n 3p
}
echo '| seconds | 1 thread | 2 threads |'
echo '|---|---|---|'
for company in alone 'beside a busy process'; do
  if [ "$company" != alone ]; then
    taskset -c 0,1 sh -c 'while :; do :; done' &
    busy=$!
    trap 'kill $busy' EXIT
  fi
  echo "| 4 steps of the full network, $company | $(median 1 '' 4) | $(median 2 '' 4) |"
  echo "| 40 steps of the small network, $company | $(median 1 small 40) | $(median 2 small 40) |"
done
