"""Spoken language understanding: ESPnet's `slu_train` with our encoders and front ends, in spawned processes too."""

from espnet2.bin.slu_train import main

import espnet_larm.registered  # noqa: F401  # a spawned process imports this module, and nothing else of ours

if __name__ == "__main__":
    main()
