"""Speech to text: ESPnet's `s2t_train` with our encoders and front ends, in processes that it spawns too."""

from espnet2.bin.s2t_train import main

import espnet_larm.registered  # noqa: F401  # a spawned process imports this module, and nothing else of ours

if __name__ == "__main__":
    main()
