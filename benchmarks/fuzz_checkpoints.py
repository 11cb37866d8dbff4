"""Load checkpoints that a coverage-guided fuzzer (atheris) damages: each is refused, or whole.

    pip install atheris
    python benchmarks/fuzz_checkpoints.py --out OUT [--runs 100000] [--seed 1]

The inputs that reached new code are in OUT/corpus, so the same command goes on from there. An input
that makes `load` raise anything but a sentence is written to OUT/crash-*, with a traceback.
Without atheris one line says so: `benchmarks/torture.py` changes bytes at random.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

FILES = ("config.json", "model.safetensors")

KINDS = (*FILES, "signed tensors")
"""The first byte of an input chooses what the others are; signed tensors are a tensors file whose
SHA-256 is put into config.json, because it alone refuses others."""

INSTRUMENTED = ["thinlens.checkpoints", "thinlens.models", "thinlens.stored_values"]

SECONDS = 10
"""That one input may take."""


def main() -> None:
    """Fuzz for so many runs, then print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: checkpoints were not fuzzed by coverage")
        return
    with atheris.instrument_imports(include=INSTRUMENTED):
        from thinlens import api  # all that reads checkpoints
        from thinlens.checkpoints.format import save
        from thinlens.errors import UsageError
        from thinlens.experiments.networks import uniform_patterns
        from thinlens.models import create
        from thinlens.sparsity.masking import attach, strip

    whole, damaged, corpus = (flags.out / name for name in ("whole", "damaged", "corpus"))
    for folder in (damaged, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    network = create("dncnn-17", depth=5, width=16)
    sparse, sparser = uniform_patterns(network, 1, 4, 8), uniform_patterns(network, 1, 1, 16)
    patterns = {  # several encodings
        name: (sparse if number % 2 else sparser)[name] for number, name in enumerate(sparse)
    }
    attach(network, patterns)
    network, task = strip(network)[0], {"name": "denoise"}
    save(whole, network, model="dncnn-17", task=task, patterns=patterns)
    originals = [(whole / name).read_bytes() for name in FILES]
    for number, content in enumerate([*originals, originals[-1]]):
        (corpus / KINDS[number]).write_bytes(bytes([number]) + content)
    config = json.loads(originals[0])

    def load(content: bytes) -> None:
        kind = content[0] % len(KINDS) if content else 0
        contents = list(originals)
        contents[min(kind, 1)] = content[1:]
        if kind == KINDS.index("signed tensors"):
            digest = hashlib.sha256(contents[1]).hexdigest()
            contents[0] = json.dumps({**config, "sha256": digest}).encode()
        for name, file in zip(FILES, contents, strict=True):
            (damaged / name).unlink(missing_ok=True)  # some disks flush a file that is truncated
            (damaged / name).write_bytes(file)
        try:
            api.load(damaged)
        except UsageError as error:
            if "\n" in str(error):
                raise

    options = [f"-runs={flags.runs}", f"-seed={flags.seed}", f"-timeout={SECONDS}"]
    options += [f"-artifact_prefix={flags.out}/", f"-max_len={max(map(len, originals)) * 2}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], load)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
