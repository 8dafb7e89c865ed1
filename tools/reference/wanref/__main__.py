"""The command line of `tools/reference/make`."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from . import INDEPENDENT, PARTS, check, make_part
from .configs import SEED
from .store import Store

GOLDENS = Path(__file__).resolve().parents[3] / "kernels-tests" / "goldens"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/reference/make", description="Makes or checks the goldens.")
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--check", action="store_true", help="compare with the stored files instead of replacing them")
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)
    parts = [part for part in PARTS if part in args.parts or not args.parts]
    if not args.check:
        store = Store(GOLDENS)
        for part in parts:
            make_part(part, store)
        store.write_manifest(SEED)
        return 0
    if any(part not in INDEPENDENT for part in parts) and "pipelines" not in parts:
        parts.insert(0, "pipelines")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for part in parts:
            make_part(part, store)
        return 1 if check.compare(GOLDENS, store.root) else 0


if __name__ == "__main__":
    sys.exit(main())
