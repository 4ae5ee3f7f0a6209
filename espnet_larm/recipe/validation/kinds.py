"""The catalogue: every kind of problem has a name, a weight and a remedy.

Names are printed with the problems and taken by `--allow`. tests/data/validation/test_damages.py damages a folder in
each of these ways.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """A sort of problem.

    Attributes:
        name: Words joined by hyphens.
        is_error: Whether training or decoding must not begin; otherwise it is only said.
        remedy: What to do.
    """

    name: str
    is_error: bool
    remedy: str


_ERROR, _WARNING = True, False
_SORT = "sort the file by code point: LC_ALL=C sort -o FILE FILE"
_PREPARE = "run the stage that makes it (asr.sh --stage data), or add it"
_DROP = "replace the audio, or drop the utterance from all files of the folder"
_SPK2UTT = "delete spk2utt, it is made anew from utt2spk (asr.sh --stage format), or correct the one that is wrong"
_SPELL = "correct the text, or make tokens from a text that has it (asr.sh --stage tokens)"
_TOKENS = "make the tokens again (asr.sh --stage tokens)"

FILES = (
    Kind("no-folder", _ERROR, "correct the name, or run the stage that makes it (asr.sh --stage data)"),
    Kind("folder-is-a-file", _ERROR, "name the folder, not a file in it"),
    Kind("no-wav-scp", _ERROR, f"{_PREPARE}: a line `id PATH` an utterance"),
    Kind("no-text", _ERROR, f"{_PREPARE}: a line `id WORDS` an utterance"),
    Kind("no-utt2spk", _ERROR, f"{_PREPARE}: a line `id SPEAKER` an utterance"),
    Kind("no-spk2utt", _WARNING, "nothing: it is made from utt2spk (asr.sh --stage format)"),
    Kind("broken-file-link", _ERROR, "restore what the link points to, or put the file itself there"),
    Kind("file-is-a-folder", _ERROR, "move the folder away and put the file there"),
    Kind("unreadable-file", _ERROR, "give yourself the right to read it: chmod u+r FILE"),
    Kind("segments", _ERROR, "write a file an utterance first: utterances cut out of recordings are not supported"),
    Kind("empty-file", _ERROR, "make it again: a data folder needs an utterance at least"),
    Kind("compressed-file", _ERROR, "unpack it: gunzip < FILE > FILE.txt && mv FILE.txt FILE"),
    Kind("lfs-pointer-file", _ERROR, "fetch what it stands for: git lfs pull"),
    Kind("utf-16", _ERROR, "convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.txt && mv FILE.txt FILE"),
    Kind("byte-order-mark", _ERROR, r"cut the mark off: sed -i '1s/^\xEF\xBB\xBF//' FILE"),
    Kind("windows-line-ends", _ERROR, r"cut the CR off: sed -i 's/\r$//' FILE"),
    Kind("old-mac-line-ends", _ERROR, r"turn CR into LF: tr '\r' '\n' < FILE > FILE.txt && mv FILE.txt FILE"),
    Kind("no-final-newline", _WARNING, "see that the last line is whole, then end it: echo >> FILE"),
)

LINES = (
    Kind("not-utf-8", _ERROR, "convert the file: iconv -f LATIN1 -t UTF-8 FILE > FILE.txt && mv FILE.txt FILE"),
    Kind("nul-byte", _ERROR, "the file is damaged: make it again, or cut the bytes out with tr -d '\\000'"),
    Kind("blank-line", _ERROR, "remove the line: sed -i '/^[[:space:]]*$/d' FILE"),
    Kind("leading-space", _WARNING, "begin the line with its id: sed -i 's/^ *//' FILE"),
    Kind("trailing-space", _WARNING, "cut it off: sed -i 's/ *$//' FILE"),
    Kind("tab-after-id", _WARNING, r"nothing: it separates as a space does; to have it alike: sed -i 's/\t/ /' FILE"),
    Kind("tab-in-text", _ERROR, "put one space between words"),
    Kind("double-space", _ERROR, "put one space between words: sed -i 's/  */ /g' FILE"),
    Kind("control-character", _ERROR, "remove it: it is no part of a path, a name or a text"),
    Kind("invisible-character", _ERROR, "remove it: nobody sees it, yet it would become a token"),
    Kind("odd-space", _ERROR, "put an ordinary space: only U+0020 separates words"),
    Kind("line-separator", _ERROR, "put a space, or make lines of it: some programs take it for the end of the line"),
    Kind("replacement-character", _ERROR, "restore the letter: an earlier conversion of the text has lost it"),
    Kind("private-character", _ERROR, "put the letter that is meant: this one has no meaning that others share"),
    Kind("decomposed-letter", _ERROR, "compose the text (NFC): uconv -x nfc, or unicodedata.normalize in Python"),
    Kind("odd-id", _ERROR, "make ids of visible letters, digits, '-', '_' and '.'"),
    Kind("unsorted", _ERROR, _SORT),
    Kind("sorted-by-locale", _ERROR, f"{_SORT} (it was sorted in another locale)"),
    Kind("sorted-by-number", _ERROR, f"{_SORT} (it was sorted by number), or fill numbers up with zeros"),
    Kind("repeated-line", _ERROR, "keep one of the lines: LC_ALL=C sort -u -o FILE FILE"),
    Kind("repeated-id", _ERROR, "decide which line is right, or give one another id (in all files)"),
)

FOLDER = (
    Kind("no-common-ids", _ERROR, "write ids alike in all files, and see that the files are of one corpus"),
    Kind("no-transcript", _ERROR, "add the line to text, or drop the utterance from the other files"),
    Kind("no-audio-line", _ERROR, "add the line to wav.scp, or drop the utterance from the other files"),
    Kind("no-speaker-line", _ERROR, "add the line to utt2spk, or drop the utterance from the other files"),
    Kind("speaker-of-nothing", _ERROR, "drop the line from utt2spk, or add the utterance to the other files"),
    Kind("in-two-folders", _WARNING, "see that no utterance of a test set is trained on: take it out of one"),
    Kind("no-length", _ERROR, "run asr.sh --stage format, which writes utt2num_samples"),
    Kind("odd-length", _ERROR, "run asr.sh --stage format, which writes utt2num_samples: whole numbers above 0"),
    Kind("length-of-nothing", _ERROR, "run asr.sh --stage format, which writes utt2num_samples"),
    Kind("odd-audio-format", _ERROR, "run asr.sh --stage format, which writes it"),
)

SPEAKERS = (
    Kind("no-speaker", _ERROR, "name the speaker; where unknown, the utterance's id does"),
    Kind("two-speakers", _ERROR, "name one speaker, without spaces in the name"),
    Kind("speaker-order", _ERROR, "begin every utterance's id with its speaker's and '-' (in all files)"),
    Kind("speaker-not-in-spk2utt", _ERROR, _SPK2UTT),
    Kind("speaker-not-in-utt2spk", _ERROR, _SPK2UTT),
    Kind("utterance-not-in-spk2utt", _ERROR, _SPK2UTT),
    Kind("utterance-not-in-utt2spk", _ERROR, _SPK2UTT),
    Kind("speakers-disagree", _ERROR, _SPK2UTT),
    Kind("speaker-without-utterances", _ERROR, _SPK2UTT),
    Kind("repeated-in-spk2utt", _ERROR, _SPK2UTT),
    Kind("unsorted-in-spk2utt", _ERROR, _SPK2UTT),
)

SOURCES = (
    Kind("no-path", _ERROR, "add the path: `id PATH`"),
    Kind("output-pipe", _ERROR, "put the | last: `id COMMAND |` reads what a command writes"),
    Kind("empty-command", _ERROR, "write the command before the |"),
    Kind("unknown-program", _ERROR, "install the program, or write its whole path"),
    Kind("quoted-path", _ERROR, "write the path without quotes: nothing here takes them off"),
    Kind("tilde-path", _ERROR, "write the whole path: no shell expands it here"),
    Kind("variable-in-path", _ERROR, "write its value: no shell expands it here"),
    Kind("wildcard-path", _ERROR, "write one file's path: no shell expands it here"),
    Kind("file-url", _ERROR, "write the path alone, without file://"),
    Kind("url", _ERROR, "download it first and write the file's path"),
    Kind("windows-path", _ERROR, "write the path as this machine has it, with /"),
    Kind("words-after-path", _ERROR, "write the path alone: `id PATH`"),
    Kind("relative-to-folder", _ERROR, "write a path from the recipe's folder, or a whole one"),
    Kind("broken-link", _ERROR, "restore what the link points to"),
    Kind("other-extension", _ERROR, "write the name of the file that is there"),
    Kind("missing-audio", _ERROR, "restore the file, or drop the utterance from all files of the folder"),
    Kind("missing-audio-folder", _ERROR, "see that the disk is mounted and the corpus is where it was"),
    Kind("audio-is-a-folder", _ERROR, "write the path of the file in it"),
    Kind("audio-is-no-file", _ERROR, "write the path of a regular file: reading this could wait for ever"),
    Kind("unreadable-audio", _ERROR, "give yourself the right to read it: chmod u+r FILE"),
    Kind("empty-audio-file", _ERROR, _DROP),
    Kind("missing-archive", _ERROR, "run the stage that wrote the archive again (asr.sh --stage format)"),
    Kind("beyond-archive", _ERROR, "run the stage that wrote the archive again (asr.sh --stage format)"),
    Kind("archive-without-offset", _ERROR, "write `archive.ark:OFFSET`, as the .scp beside the archive does"),
)

AUDIO = (
    Kind("command-failed", _ERROR, "try the command in a shell"),
    Kind("not-an-entry", _ERROR, "run the stage that wrote the archive again (asr.sh --stage format)"),
    Kind("features-not-audio", _ERROR, "name audio: features are computed in training"),
    Kind("damaged-audio", _ERROR, _DROP),
    Kind("truncated-audio", _ERROR, "copy or download the file again: its end is missing"),
    Kind("web-page", _ERROR, "download it again: this is a server's answer, not the file"),
    Kind("lfs-pointer", _ERROR, "fetch what it stands for: git lfs pull"),
    Kind("packed-audio", _ERROR, "unpack it first: gunzip or unzip"),
    Kind("other-codec", _ERROR, "convert it: ffmpeg -i FILE -ar 16000 -ac 1 FILE.flac"),
    Kind("shortened-sphere", _ERROR, "convert it: sph2pipe -f wav FILE FILE.wav"),
    Kind("text-not-audio", _ERROR, "name the audio file; this one holds text"),
    Kind("no-audio", _ERROR, _DROP),
    Kind("no-samples", _ERROR, _DROP),
    Kind("not-a-number", _ERROR, "make it again: some computation of its samples failed"),
    Kind("infinite-sample", _ERROR, "make it again: some computation of its samples failed"),
    Kind(
        "beyond-full-scale", _ERROR, "divide the samples by their full scale (32768 for 16 bit): they go from -1 to 1"
    ),
    Kind("silence", _ERROR, f"{_DROP}: every sample is 0"),
    Kind(
        "silent-mix", _ERROR, "take one channel: sox FILE OUT remix 1 (one is the other upside down, or all are silent)"
    ),
    Kind("constant-audio", _ERROR, f"{_DROP}: every sample has the same value"),
    Kind("quiet", _WARNING, "see whether anybody speaks in it; amplify the recording if somebody does"),
    Kind("clipped", _WARNING, "see whether a recording with a lower level exists"),
    Kind("offset", _WARNING, "take the mean off, or pass a high-pass filter over it: sox FILE OUT highpass 10"),
    Kind("wrong-rate", _ERROR, "convert it (asr.sh --stage format does), or say --fs"),
    Kind("several-channels", _ERROR, "mix them or choose one (asr.sh --stage format mixes them)"),
    Kind("too-short", _WARNING, "nothing in training: asr.sh --stage filter leaves it out"),
    Kind("too-long", _WARNING, "nothing in training: asr.sh --stage filter leaves it out; or cut it"),
    Kind("length-differs", _ERROR, "run asr.sh --stage format again: the audio was changed after it"),
    Kind("too-much-text", _ERROR, "see whether the transcript is of another utterance, or the audio was cut"),
    Kind("too-little-text", _WARNING, "see whether the transcript is whole"),
)

TRANSCRIPTS = (
    Kind("empty-text", _ERROR, "write what is said, or drop the utterance (asr.sh --stage filter does for training)"),
    Kind("id-in-text", _ERROR, "take the second id off"),
    Kind("id-at-end", _ERROR, "take `(id)` off: Kaldi's form is `id WORDS`"),
    Kind("sentence-marks", _ERROR, "take <s> and </s> off: they are no words"),
    Kind("special-token", _ERROR, "take it off: the token has a meaning of its own"),
    Kind("mojibake", _ERROR, "decode the source as UTF-8: it was read in another encoding"),
    Kind("html-entity", _ERROR, "write the character: html.unescape in Python"),
    Kind("placeholder", _WARNING, "see whether it was said: programs write it where a value is missing"),
    Kind("no-letters", _ERROR, "write what is said, or drop the utterance"),
    Kind("mixed-scripts", _ERROR, "write the word in one alphabet: letters look alike and are different tokens"),
    Kind("very-long-word", _WARNING, "see whether the spaces between words are lost"),
    Kind("very-long-text", _WARNING, "see whether several utterances stand in one line"),
)

SPELLING = (
    Kind("no-token-list", _ERROR, "run asr.sh --stage tokens, which writes it"),
    Kind("blank-not-first", _ERROR, f"{_TOKENS}: CTC takes token 0 for its blank"),
    Kind("unk-not-second", _ERROR, f"{_TOKENS}: what has no token becomes <unk>"),
    Kind("sos-eos-not-last", _ERROR, f"{_TOKENS}: the last token starts and ends sentences"),
    Kind("repeated-token", _ERROR, f"{_TOKENS}: the second would never be used"),
    Kind("blank-token", _ERROR, f"{_TOKENS}: a line is a token"),
    Kind("no-space-token", _ERROR, f"{_TOKENS}: without <space> words run together"),
    Kind("no-bpe-model", _ERROR, "run asr.sh --stage tokens, which writes it"),
    Kind("damaged-bpe-model", _ERROR, _TOKENS),
    Kind("other-bpe-model", _ERROR, f"{_TOKENS}: list and model are of two runs"),
    Kind("other-case", _ERROR, "bring the text to the case of the tokens: tr a-z A-Z, or the reverse"),
    Kind("cannot-spell", _ERROR, _SPELL),
)

KINDS = {
    kind.name: kind
    for group in (FILES, LINES, FOLDER, SPEAKERS, SOURCES, AUDIO, TRANSCRIPTS, SPELLING)
    for kind in group
}
