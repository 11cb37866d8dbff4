#!/usr/bin/env bash
# Build two wheels of the last commit, in two folders and at two times, and compare their bytes:
# wheel_twice.sh PYTHON [pip options]. What builds them is pinned by hash (build-requirements.txt).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
shift
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
folder=$PWD/build/twice
rm -rf "$folder"
"$python" -m venv "$folder/tools"
"$folder/tools/bin/python" -m pip install --quiet --require-hashes --only-binary :all: \
  -r packaging/build-requirements.txt
for copy in first a-second-folder; do
  mkdir -p "$folder/$copy"
  git archive HEAD | tar -x -C "$folder/$copy"
  PATH="$folder/tools/bin:$PATH" "$folder/tools/bin/python" -m pip wheel --quiet --no-deps \
    --no-build-isolation --no-cache-dir --wheel-dir "$folder/$copy-wheel" "$@" "$folder/$copy"
done
sha256sum "$folder"/*-wheel/*.whl
cmp "$folder"/first-wheel/*.whl "$folder"/a-second-folder-wheel/*.whl
echo "both wheels are the same bytes"
