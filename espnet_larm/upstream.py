"""Names that ESPnet moved between releases: `espnet.nets` of 202511 is `espnet2.legacy.nets` on its master.

The rest of the package imports these names from here, so that one file follows ESPnet.
"""

try:
    from espnet.nets.e2e_asr_common import ErrorCalculator
    from espnet.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
    from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
    from espnet.nets.scorer_interface import BatchScorerInterface
except ModuleNotFoundError:
    from espnet2.legacy.nets.e2e_asr_common import ErrorCalculator
    from espnet2.legacy.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
    from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

__all__ = ["BatchScorerInterface", "ErrorCalculator", "TooShortUttError", "add_sos_eos"]
