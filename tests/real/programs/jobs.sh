# SPDX-License-Identifier: Apache-2.0
# Job control as in an interactive bash: process groups, a stopped job, a coprocess, a named pipe, process substitution.
set -m
n=$1
# Not ps: it opens files of processes that are not ours, which can't be saved.
state_of() {
  local line
  read -r line <"/proc/$1/stat"
  line=${line##*) }
  echo "${line:0:1}"
}
count() {
  local sum=0 i
  for ((i = 0; i < n; i++)); do sum=$(((sum * 31 + i) % 1000003)); done
  echo "$1 $sum"
}
coproc SQUARE { while read -r a; do echo $((a * a)); done; }
rm -f queue
mkfifo queue
sleep 1000 &
stopped=$!
kill -STOP $stopped
count first >first.txt &
(count second >second.txt; exit 7) &
second=$!
(for ((i = 0; i < n / 2; i++)); do echo "line $i"; done >queue) &
sha256sum <queue >queue.txt &
true &                       # a zombie until somebody waits for it
ended=$!
count front | tee >(sha256sum >tee.txt) >front.txt
total=0
for ((i = 0; i < n / 20; i++)); do
  echo $i >&"${SQUARE[1]}"
  read -r -u "${SQUARE[0]}" square
  total=$(((total + square) % 1000003))
done
echo "squares $total"
wait $second; echo "second ended with $?"
wait $ended; echo "ended with $?"
echo "stopped job: $(state_of $stopped)"
exec {errors}>&2 2>/dev/null  # bash tells of killed jobs when it likes to
kill -CONT $stopped
until [[ $(state_of $stopped) == S ]]; do sleep 0.02; done
kill -TERM $stopped
wait $stopped; echo "stopped job ended with $?"
exec 2>&"$errors"
exec {SQUARE[1]}>&-
wait
until [ -s tee.txt ]; do sleep 0.05; done
rm queue
cat first.txt second.txt queue.txt tee.txt front.txt
