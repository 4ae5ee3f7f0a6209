"""Names that ESPnet moved between releases: `espnet.nets` of 202511 is `espnet2.legacy.nets` on its master.

The rest of the package imports these names from here, so that one file follows ESPnet.
"""

try:
    from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError
    from espnet.nets.scorer_interface import BatchScorerInterface
except ModuleNotFoundError:
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
    from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

__all__ = ["BatchScorerInterface", "TooShortUttError"]
