"""ESPnet3's names with our plugins behind them, for its YAML files.

    task: espnet_larm.espnet3.ASRTask               # training; in place of espnet3.systems.esp2_asr.task.ASRTask
    model:
      _target_: espnet_larm.espnet3.Speech2Text     # inference; in place of espnet2.bin.asr_inference.Speech2Text

ESPnet3 imports what a YAML names in every process that it starts, so that parallel workers know the plugins too. With
`python -m espnet_larm run.py ...` a YAML may keep ESPnet's names: see `espnet_larm.__main__`.
"""

from espnet3.systems.esp2_asr.task import ASRTask

from espnet2.bin.asr_inference import Speech2Text

import espnet_larm.registered  # noqa: F401

__all__ = ["ASRTask", "Speech2Text"]
