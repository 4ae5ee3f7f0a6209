# shellcheck shell=bash
# The repository's Python environment, made if it is not there. Sourced by asr.sh unless --python is given.
# No extra is needed here; `test` is small, and unlike `mini` brings nothing under the GPL.
../../tools/setup.sh --extras test
