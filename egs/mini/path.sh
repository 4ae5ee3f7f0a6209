# shellcheck shell=bash
# The repository's Python environment, made if it is not there. Sourced by asr.sh unless --python is given.
../../tools/setup.sh --extras mini
