#!/bin/sh
# Two network namespaces as two hosts: they train together to the bits of one process; when the link between them is cut, both stop within a
# minute, saying which rank does not answer, and one of them goes on from the checkpoint to the same bits. As root, with Open MPI; the package,
# built with MPI, installed where R finds it (R_LIBS).
#
#   sh tests/faults/hosts.sh      TIMEOUT: seconds that ranks wait for each other, default 20; the package's default is 50
# Last line: "N passed, N failed, N skipped".
set -u
passed=0 failed=0
skip() { echo "skip hosts: $*"; echo "0 passed, 0 failed, 1 skipped"; exit 0; }
pass() { passed=$((passed + 1)); echo "ok $*"; }
fail() { failed=$((failed + 1)); echo "not ok $*"; }
[ "$(id -u)" = 0 ] || skip "not root"
command -v mpirun > /dev/null 2>&1 || skip "no mpirun"
command -v ip > /dev/null 2>&1 || skip "no ip (iproute2)"
command -v nsenter > /dev/null 2>&1 || skip "no nsenter"
Rscript --vanilla -e 'quit(status = !spender::devices()$built[["mpi"]])' > /dev/null 2>&1 || skip "the package is built without MPI"
a=spender-a-$$ b=spender-b-$$
work=$(mktemp -d) || exit 1
end() { ip netns del $a 2> /dev/null; ip netns del $b 2> /dev/null; rm -rf "$work"; }
trap end EXIT
trap 'exit 1' INT TERM
ip netns add $a 2> /dev/null && ip netns add $b 2> /dev/null || skip "network namespaces cannot be made here"
ip link add va$$ type veth peer name vb$$ || skip "no virtual links here"
ip link set va$$ netns $a && ip link set vb$$ netns $b
for side in "$a va$$ 10.203.0.1" "$b vb$$ 10.203.0.2"; do
  set -- $side
  ip -n "$1" addr add "$3/24" dev "$2" && ip -n "$1" link set "$2" up && ip -n "$1" link set lo up
done

# mpirun starts the other host's daemon with this instead of ssh: HOST COMMAND. Each has a host name of its own, which only these see.
cat > "$work/start" <<T
#!/bin/sh
host=\$1
shift
exec ip netns exec $b unshare --uts sh -c 'hostname host-b; exec sh -c "\$*"' start "\$@"
T
chmod +x "$work/start"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
words="train --filters 8,16,16 --encoder-hidden 16 --decoder-hidden 16,32 --latents=2 --batch-size 16 --epochs=${EPOCHS:-300} --threads=1 --all --init=random
  --pieces=4 --checkpoint-minutes 0 --resume $work/survey.fits"
program="options(spender.timeout = ${TIMEOUT:-20}); spender::main()"
Rscript --vanilla -e "invisible(spender::simulate_survey(600, '$work/survey.fits', instrument = spender::instrument(seq(4000, 8000, by = 8)), seed = 1, progress = FALSE))" ||
  exit 1
# The hosts do not share memory, so all goes through the link.
together() {
  ip netns exec $a unshare --uts sh -c 'hostname host-a; exec "$@"' mpirun \
    mpirun -n 2 --host 10.203.0.1:1,10.203.0.2:1 --mca plm_rsh_agent "$work/start" --mca btl tcp,self --mca btl_tcp_if_include 10.203.0.0/24 \
    --mca oob_tcp_if_include 10.203.0.0/24 --mca pml ob1 -x R_LIBS \
    Rscript --vanilla -e "$program" $words --output "$work/$1.safetensors" --checkpoint "$work/$1.kept"
}
Rscript --vanilla -e "$program" $words --quiet --output "$work/alone.safetensors" --checkpoint "$work/alone.kept" > "$work/log" 2>&1 ||
  { cat "$work/log"; exit 1; }
same() {
  Rscript --vanilla -e "w <- lapply(commandArgs(TRUE), function(p) spender::read_model(p)\$weights); quit(status = !identical(w[[1]], w[[2]]))" \
    "$work/alone.safetensors" "$work/$1.safetensors" > /dev/null 2>&1
}
start=$(date +%s)
together whole > "$work/log" 2>&1
if same whole; then pass "two hosts train to the bits of one process, in $(($(date +%s) - start)) s"
else fail "two hosts:"; tail -n 20 "$work/log"
fi

together cut > "$work/log" 2>&1 &
run=$!
while [ ! -f "$work/cut.kept" ] && kill -0 $run 2> /dev/null; do sleep 0.1; done
sleep 1
ip -n $a link set va$$ down
start=$(date +%s)
# Open MPI's daemon on the other host may stay: it waits for mpirun, which it cannot hear.
ranks_left() { for pid in $(ip netns pids $a; ip netns pids $b); do [ "$(cat /proc/"$pid"/comm 2> /dev/null)" = R ] && echo "$pid"; done; }
left=$(ranks_left)
[ -n "$left" ] || fail "no rank is running"
while [ -n "$left" ] && [ $(($(date +%s) - start)) -lt 90 ]; do
  sleep 0.2
  left=$(ranks_left)
done
took=$(($(date +%s) - start))
kill -9 $run 2> /dev/null
for pid in $(ip netns pids $a; ip netns pids $b); do kill -9 "$pid" 2> /dev/null; done
if [ $took -le 60 ] && [ -z "$left" ]; then pass "the link cut, both ranks have stopped $took s later"
else fail "the link cut, $took s later these run: $left"
fi
if grep -Eq 'rank [01] \(host-[ab]\) (has not answered|stopped)|host-b|10\.203\.0\.2' "$work/log"; then
  pass "said: $(grep -E 'rank [01] \(host' "$work/log" | head -n 2 | paste -s -d '|')"
else fail "nobody says what happened:"; tail -n 20 "$work/log"
fi
[ ! -f "$work/cut.safetensors" ] || fail "the training ended before the link was cut"
Rscript --vanilla -e "$program" $words --output "$work/cut.safetensors" --checkpoint "$work/cut.kept" > "$work/log2" 2>&1
if same cut && grep -q 'Going on after' "$work/log2"; then pass "one host goes on to the same bits"
else fail "going on:"; tail -n 5 "$work/log2"
fi
[ "${SHOW:-no}" = no ] || cat "$work/log"
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
