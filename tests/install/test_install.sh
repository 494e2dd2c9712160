#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: test_install.sh BUILD_DIR
# An installed Stasis serves another project: by find_package(stasis), by pkg-config, through DESTDIR, moved elsewhere.
set -euo pipefail
build=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
consumer="$here/consumer"

expect_output() { [ "$("$@")" = "as expected" ] || { echo "FAIL: $* printed something else" >&2; exit 1; }; }

DESTDIR=$dir/root cmake --install "$build" --prefix /opt/stasis >/dev/null
mv "$dir/root/opt/stasis" "$dir/moved"  # nothing may name the place it was built for
prefix=$dir/moved
libdir=$(dirname "$(find "$prefix" -name libstasis-work.a)")
[ -s "$prefix/share/man/man1/stasis.1" ] || { echo "FAIL: no manual page" >&2; exit 1; }
if [ -x "$build/stasis" ]; then [ -x "$prefix/bin/stasis" ] || { echo "FAIL: no command" >&2; exit 1; }; fi
if grep -rlI "$build" "$prefix"; then echo "FAIL: the files above name the build directory" >&2; exit 1; fi

cmake -S "$consumer" -B "$dir/cmake" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >"$dir/log" || { cat "$dir/log"; exit 1; }
cmake --build "$dir/cmake" >"$dir/log" || { cat "$dir/log"; exit 1; }
expect_output "$dir/cmake/consumer_work"
expect_output "$dir/cmake/consumer_stasis"

export PKG_CONFIG_PATH=$libdir/pkgconfig
for package in stasis-work stasis; do
  # The flags are words, and paths with blanks are not what is tested here.
  # shellcheck disable=SC2046
  g++ -std=c++23 "$consumer/consumer.cc" $(pkg-config --cflags --libs "$package") -o "$dir/$package"
  expect_output "$dir/$package"
done
echo "PASS: installed, moved, found by find_package and pkg-config, built and run"
