"""ESPnet's `lightning_train` with our plugins, in the processes that Lightning starts, too.

Lightning starts a process a GPU by running `python -m` with the name of this module again.
"""

from espnet2.bin.lightning_train import main

import espnet_larm.registered  # noqa: F401  # a spawned process imports this module, and nothing else of ours

if __name__ == "__main__":
    main()
