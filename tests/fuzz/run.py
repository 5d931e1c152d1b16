"""`python -m fuzz.run TARGET --seconds N`: runs atheris on a target, from the corpus and into it.

What finds new code is added to the corpus. An input that breaks the target ends it, and is left in `crash-…` of the
working directory. atheris is no dependency of the project: `pip install atheris`.
"""

import argparse
import sys
from hashlib import sha1
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
RSS_LIMIT_MB = 512
INPUT_MAX_BYTES = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz.run")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["pgweir_pooler", "pgweir_contract"]):
        from fuzz.targets import TARGETS
    from fuzz.seeds import seeds

    corpus = CORPUS / args.target
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds()[args.target]:
        (corpus / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = [
        sys.argv[0],
        f"-max_total_time={args.seconds}",
        f"-max_len={INPUT_MAX_BYTES}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        "-timeout=5",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(options, TARGETS[args.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
