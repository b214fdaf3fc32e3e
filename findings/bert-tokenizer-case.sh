#!/usr/bin/env bash
# transformers 5 reads a cased tokenizer.json in lower case: the class BertTokenizer builds its normaliser anew from
# do_lower_case in tokenizer_config.json, which is true when it is missing, and ignores the one in the file.
#
# Versions: transformers 5.24.0, tokenizers 0.23.3.
#
# Guess from the format (tokenizer.json is the whole pipeline, normaliser included), before the run: the file decides;
# do_lower_case is only for folders that have a vocab.txt and no tokenizer.json.
#
# Behaviour.
#  - the normaliser of tokenizer.json is not looked at, in either direction: lowercase false in the file and silence in
#    the config reads in lower case; lowercase true in the file and do_lower_case false in the config keeps case.
#  - every piece with a capital letter becomes unreachable, and nothing is said: words are found in lower case, or in parts.
#  - the same file under the class PreTrainedTokenizerFast (now TokenizersBackend) is read as it is written.
#
# Output seen:
#   file keeps case, config silent                      berlin is big
#   file keeps case, config says lower                  berlin is big
#   file lowers, config silent                          berlin is big
#   file lowers, config says keep                       Berlin is Big
#   file keeps case, class PreTrainedTokenizerFast      Berlin is Big
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3
cat > "$work/try.py" <<'PY'
import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Berlin", "berlin", "is", "Big", "big"]


def pieces(lowercase: bool, **config):
    folder = Path(tempfile.mkdtemp())
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}, do_lower_case=False).save_pretrained(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about.pop("do_lower_case", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(about | config))
    pipeline = json.loads((folder / "tokenizer.json").read_text())
    pipeline["normalizer"]["lowercase"] = lowercase
    (folder / "tokenizer.json").write_text(json.dumps(pipeline))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return " ".join(AutoTokenizer.from_pretrained(folder).tokenize("Berlin is Big"))


rows = {
    "file keeps case, config silent": pieces(False),
    "file keeps case, config says lower": pieces(False, do_lower_case=True),
    "file lowers, config silent": pieces(True),
    "file lowers, config says keep": pieces(True, do_lower_case=False),
    "file keeps case, class PreTrainedTokenizerFast": pieces(False, tokenizer_class="PreTrainedTokenizerFast"),
}
for name, seen in rows.items():
    print(f"{name:51} {seen}")
assert list(rows.values()) == ["berlin is big"] * 3 + ["Berlin is Big"] * 2, rows
PY
"$work/venv/bin/python" "$work/try.py" 2>/dev/null
