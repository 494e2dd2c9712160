# SPDX-License-Identifier: Apache-2.0
# Arithmetic in a loop, with an output file open for appending and one for reading.
exec 3>>numbers.txt 4<input.txt
a=1 b=1 sum=0
for ((i = 0; i < $1; i++)); do
  ((c = (a + b) % 1000000007, a = b, b = c, sum += c))
  if ((i % ($1 / 20) == 0)); then
    read -r -u 4 line
    echo "$i $c $line" >&3
    echo "at $i"
  fi
done
echo "sum $sum"
