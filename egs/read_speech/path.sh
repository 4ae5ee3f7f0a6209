# shellcheck shell=bash
# The repository's Python environment, made if it is not there. Sourced by asr.sh unless --python is given.
# Neither eSpeak NG (GPL) nor n-grams are needed here.
../../tools/setup.sh --extras ""
