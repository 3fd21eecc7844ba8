#!/usr/bin/env bash
# Copies the shared libraries that programs need, beside those of glibc, into a folder.
#
#   bundle_libraries.sh FOLDER PROGRAM...
#
# glibc and the NVIDIA driver belong to the machine that runs the programs: libraries built
# against an older glibc run on a newer one, not the other way round.
set -euo pipefail

readonly folder=$1
shift
readonly machine='/(ld-linux[^/]*|libc|libm|libdl|librt|libpthread|libresolv|libcuda)[.]so[.0-9]*$'

mkdir -p "$folder"
for program in "$@"; do
  ldd "$program"
done | awk -v own="$folder/" -v machine="$machine" \
  '$3 ~ /^\// && $3 !~ machine && index($3, own) != 1 {print $3}' | sort -u |
  while read -r library; do
    install -m 755 "$(realpath "$library")" "$folder/$(basename "$library")"
    strip --strip-unneeded "$folder/$(basename "$library")"
  done
