#!/usr/bin/env bash
# Makes data/{train_nodev,train_dev,test} of AN4. Called by asr.sh in the recipe's folder, with its ${python}.
#
# The corpus is AN4_ROOT (run.sh --an4_root), else ../../../shared/data/an4, else it is downloaded (64 MB) to downloads/.
set -euo pipefail
# shellcheck source=/dev/null
. ../utils/log.sh

url=http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz
sha256=a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12  # checksum of the archive
shared=../../../shared/data/an4

find_corpus() { # sets root to the folder that holds AN4's etc/
    # No output is taken from here: bash goes on after an error inside of $(...).
    root=${AN4_ROOT:-}
    if [ -n "$root" ]; then
        [ -d "$root/etc" ] || die "--an4_root $root has no etc/; name the folder that holds AN4's etc/ and audio"
    elif [ -d "$shared/etc" ]; then
        root=$shared
    else
        root=downloads/an4
        [ -d "$root/etc" ] || download >&2
    fi
}

download() { # fills downloads/an4
    ../utils/download.sh "$url" downloads/an4_sphere.tar.gz "$sha256"
    rm -rf downloads/an4.part
    mkdir downloads/an4.part
    tar -xzf downloads/an4_sphere.tar.gz -C downloads/an4.part
    mv downloads/an4.part/an4 downloads/an4
    rmdir downloads/an4.part
}

find_corpus
read -ra py <<< "${python:-python3 -m espnet_larm}"
"${py[@]}" prepare-data an4 --root "$root" --output_dir data
