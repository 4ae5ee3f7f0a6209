"""Names that ESPnet moves between releases; the rest of the package imports them from here."""

from espnet2.legacy.nets.e2e_asr_common import ErrorCalculator
from espnet2.legacy.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

__all__ = ["BatchScorerInterface", "ErrorCalculator", "TooShortUttError", "add_sos_eos"]
